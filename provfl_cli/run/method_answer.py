"""What a method says of one prediction, and how its ranking fits what leaving clients out costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from ..evaluation.contributions import ranks
from ..evaluation.ranking import order, spearman
from ..provenance.contributions import Contributions
from ..reporting.rankings import best_clients
from ..results.answer import Agreement, Layer, MethodAnswer
from .confirmed import apart, matter
from .open_run import OpenFederation


def method_answer(
    opened: OpenFederation,
    rows: pd.DataFrame,
    traced: Contributions | None,
    label: int | None,
    explained: int,
    top: int,
) -> MethodAnswer:
    """What one method says."""
    ranked = rows[rows["rank"].notna()]
    others = rows[rows["kind"] != "client"]
    also = label if label != explained else None
    best = best_clients(ranked, top, opened.label_counts, explained, also, opened.faulty, opened.client_names)
    return MethodAnswer(
        method=str(rows["method"].iloc[0]),
        scope=str(rows["scope"].iloc[0]),
        target=str(rows["target"].iloc[0]),
        clients=best,
        candidates=len(ranked),
        rest=dict(zip(others["kind"], others["contribution"].astype(float), strict=True)),
        total=float(ranked["contribution"].abs().sum()),
        layers=_layers(traced, best[0].client),
        unused=int((rows["kind"] == "client").sum()) - len(ranked),
        covered=None if traced is None else traced.covered,
        uncovered={} if traced is None else traced.uncovered,
        residual=None if traced is None else float(traced.residuals[0]),
    )


def _layers(traced: Contributions | None, best: int) -> tuple[Layer, ...]:
    """What each layer of a trace carried, of all candidates and of the best client."""
    if traced is None:
        return ()
    column, used = traced.clients.index(best), traced.candidates
    return tuple(
        Layer(
            name=layer.layer,
            contribution=float(layer.contributions[0, used].sum()),
            best=float(layer.contributions[0, column]),
            active=int(layer.active[0]),
            neurons=int(layer.neurons[0]),
            masked=layer.layer in traced.masked_layers,
        )
        for layer in traced.layers
    )


def agreements_of(
    opened: OpenFederation, rows: pd.DataFrame, best: Sequence[int], losses: dict[str, np.ndarray]
) -> Iterator[Agreement]:
    """How each method's order of these clients fits what leaving them out costs."""
    for (method, scope), trace in rows.groupby(["method", "scope"], sort=False):
        own = trace[trace["rank"].notna()].set_index("client")["contribution"]
        for kind, effect in losses.items():
            measured = [
                position
                for position, client in enumerate(best)
                if client in own.index and np.isfinite(effect[position])
            ]
            pushed = own.loc[[best[position] for position in measured]].to_numpy(float)
            counts = matter(pushed) | matter(effect[measured])
            pushed, measured = pushed[counts], [each for each, there in zip(measured, counts, strict=True) if there]
            pushed_apart, costs_apart = apart(pushed), apart(effect[measured])
            rank, costs = ranks(pushed[None])[0], ranks(effect[measured][None])[0]
            names = [opened.name_of(best[position]) for position in measured]
            ordered = [
                (first, second) if rank[first] < rank[second] else (second, first)
                for first, second in combinations(range(len(measured)), 2)
                if pushed_apart(first, second) and costs_apart(first, second)
            ]
            against = tuple((names[a], names[b]) for a, b in ordered if costs[a] > costs[b])
            few = len(measured) < 2
            correlation = np.nan if few else float(spearman(order(rank[None]), -costs[None].astype(float))[0])
            yield Agreement(str(method), str(scope), kind, correlation, against, len(ordered), len(measured))
