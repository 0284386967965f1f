"""What traced rounds score: the metrics of the contributions found in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from ..data.federated import Faults
from ..evaluation.metrics import localization
from ..federation.participation import Roster
from .tracing import TracedRound


def localization_scores(
    contributions: pd.DataFrame,
    traced: Sequence[TracedRound],
    counts: Mapping[int, np.ndarray],
    min_examples: int,
    faults: Faults,
    newcomers: Mapping[int, Collection[int]],
) -> pd.DataFrame:
    """The metrics; predictions whose label nobody holds were passed over before the trace, and are counted here.

    Args:
        contributions: of all the rounds.
        traced: the rounds.
        counts: training examples by label, int `[classes]`, of every client that was kept.
        min_examples: from how many a client holds a label.
        faults: what was planted in clients.
        newcomers: by round, the clients whose work is fused there for the first time.
    """
    scores = localization(contributions, counts, min_examples, faults, newcomers)
    passed_over = {traced_round.number: traced_round.selection.no_holder for traced_round in traced}
    scores["no_holder"] += scores["round"].map(passed_over).astype(scores["no_holder"].dtype)
    return scores


def newcomers(roster: Sequence[Roster], ids: Sequence[int]) -> dict[int, set[int]]:
    """By round, the clients whose work is fused there for the first time; `ids` are the numbers of those kept."""
    known, first = set[int](), dict[int, set[int]]()
    for members in roster:
        first[members.number] = {ids[work.position] for work in members.fused} - known
        known |= first[members.number]
    return first
