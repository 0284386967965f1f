"""Forgetting: how a client's share of a label fades after it stops taking part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..imports import later

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = later("pandas")


@dataclass(frozen=True)
class Fading:
    """One client's share of the label that it holds most examples of, in the rounds traced.

    Attributes:
        client: its number.
        label: that label.
        last: the last round in which it took part.
        rounds: the rounds traced, ascending.
        shares: mean over the inputs of that label of `T_k / (sum_j |T_j| + |noise| + |stale| + |forgotten|)`; NaN
            before the client first took part, and where no input of the label was traced.
    """

    client: int
    label: int
    last: int
    rounds: tuple[int, ...]
    shares: tuple[float, ...]


def over_rounds(contributions: pd.DataFrame) -> pd.DataFrame:
    """Of contributions of a run those in scope `lineage` of its own method, which comes before the others."""
    found = contributions[contributions["scope"] == "lineage"]
    return found[found["method"] == found["method"].iloc[0]] if len(found) else found


def fading(frame: pd.DataFrame, label_counts: Mapping[int, np.ndarray], last: Mapping[int, int]) -> list[Fading]:
    """How clients' shares went; those that have not taken part for longest come first.

    Args:
        frame: contributions of one method in scope `lineage`, of any number of rounds.
        label_counts: training examples by label of each client.
        last: the last round in which each client took part.
    """
    counted = frame[frame["kind"] != "previous"]
    total = counted["contribution"].abs().groupby([counted["round"], counted["input"]]).sum()
    clients = counted[counted["kind"] == "client"]
    whole = total.loc[pd.MultiIndex.from_frame(clients[["round", "input"]])].to_numpy()
    parts = clients.assign(part=np.divide(clients["contribution"], whole, out=np.zeros(len(whole)), where=whole > 0))
    main = {client: int(label_counts[client].argmax()) for client in last}
    own = parts[parts["label"].to_numpy() == parts["client"].map(main).to_numpy()]
    means = own.groupby(["client", "round"])["part"].mean()
    rounds = tuple(sorted({int(number) for number in frame["round"]}))
    return [
        Fading(
            client,
            main[client],
            last[client],
            rounds,
            tuple(float(means.get((client, number), math.nan)) for number in rounds),
        )
        for client in sorted(last, key=lambda client: (last[client], client))
    ]
