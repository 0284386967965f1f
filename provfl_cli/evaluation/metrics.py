"""Localization metrics from contributions and label counts, each beside what chance scores (design section 5)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..data.federated import Faults
from .contributions import TRACE, Trace, traces
from .ranking import Order, hit, ndcg, no_order, order, spearman

HIT_AT = (3, 5)
METRICS = (
    "inputs", "no_holder", "clients",
    "localization_accuracy", "chance_accuracy", "chance_corrected", "best_constant",
    "majority_accuracy", "majority_chance", "ndcg", "ndcg_chance", "spearman_counts", "tie_rate", "gap",
    "fault_inputs", "fault_accuracy", "fault_chance", *(f"hit@{k}{end}" for k in HIT_AT for end in ("", "_chance")),
)  # fmt: skip


def localization(
    frame: pd.DataFrame, label_counts: Mapping[int, np.ndarray], min_examples: int, faults: Faults
) -> pd.DataFrame:
    """Score every trace in a tidy frame: the rows of `localization.csv`.

    Args:
        frame: contributions as `contributions.tidy` makes them, of any number of methods and rounds.
        label_counts: training examples by label of each client, after injection, int `[classes]`.
        min_examples: from so many on a client holds a label.
        faults: what was planted.

    Returns:
        One row for each method, scope, target and round, with the columns `METRICS`. NaN where there is nothing to
        measure, such as `chance_corrected` when every client holds every label.

    Raises:
        ValueError: a contribution is missing, or a candidate has no label counts.
    """
    rows = []
    for key, trace in traces(frame):
        unknown = sorted({int(c) for c in trace.clients} - set(label_counts))
        if unknown:
            raise ValueError(f"no label counts for clients {unknown}")
        counts = np.stack([label_counts[int(client)] for client in trace.clients])[:, trace.labels].T
        found = order(trace.rank)
        held = np.asarray((counts >= min_examples).any(axis=1))
        rows.append(
            dict(zip(TRACE, key, strict=True))
            | {"clients": len(trace.clients), "no_holder": int((~held).sum())}
            | holder_metrics(trace.contributions[held], _rows(found, held), counts[held], min_examples)
            | fault_metrics(trace, found, faults)
        )
    return pd.DataFrame(rows, columns=[*TRACE, *METRICS])


def holder_metrics(
    contributions: np.ndarray, found: Order, counts: np.ndarray, min_examples: int
) -> dict[str, float | int]:
    """Does the ranking find who holds the label? `H` = candidates with at least `min_examples` examples of it.

    Args:
        contributions: float64 `[n, K]`.
        found: the order of the candidates by contribution.
        counts: each candidate's examples of the input's true label, int `[n, K]`; `H` is nowhere empty.
        min_examples: from so many on a client holds a label.

    Returns:
        localization_accuracy: mean of `|M and H| / |M|`, `M` the candidates at rank 1 (paper, section V).
        chance_accuracy: mean of `|H| / K`.
        chance_corrected: `(accuracy - chance) / (1 - chance)`, both over inputs with `|H| < K`.
        best_constant: the most that naming one and the same candidate for every input scores.
        majority_accuracy, majority_chance: the same as the first two with the largest holders in place of `H`.
        ndcg, ndcg_chance: with the counts as gain, see `ranking.ndcg`; its exact mean over all orders.
        spearman_counts: mean rank correlation of contributions and counts, where counts differ; chance 0.
        tie_rate: share of inputs with `|M| > 1`.
        gap: mean of `(best - second) / sum |T|`; NaN with one candidate.
    """
    n, k = counts.shape
    chance = no_order(n, k)
    holders = counts >= min_examples
    largest = holders & (counts == counts.max(axis=1, keepdims=True))
    accuracy, by_chance = hit(found, holders), hit(chance, holders)
    contested = ~holders.all(axis=1)
    room = 1.0 - _mean(by_chance[contested])
    return {
        "inputs": n,
        "localization_accuracy": _mean(accuracy),
        "chance_accuracy": _mean(by_chance),
        "chance_corrected": (_mean(accuracy[contested]) - _mean(by_chance[contested])) / room,
        "best_constant": float(holders.mean(axis=0).max()) if n else np.nan,
        "majority_accuracy": _mean(hit(found, largest)),
        "majority_chance": _mean(hit(chance, largest)),
        "ndcg": _mean(ndcg(found, counts)),
        "ndcg_chance": _mean(ndcg(chance, counts)),
        "spearman_counts": _mean(spearman(found, counts)),
        "tie_rate": _mean(((found.first == 1).sum(axis=1) > 1).astype(float)),
        "gap": _mean(_gap(contributions)),
    }


def fault_metrics(trace: Trace, found: Order, faults: Faults) -> dict[str, float | int]:
    """Does the ranking find the planted clients, on predictions that look like their fault?

    Looked at are mispredictions whose true label is the source of a flip and whose prediction is its target. With `f`
    of `K` candidates faulty chance is `f / K` for the top client and `1 - C(K-f, k) / C(K, k)` for the top `k`. All
    NaN where there are no such inputs or no faulty candidate.
    """
    flips = [(source, target) for source, target in faults.flips if source != target]
    caused = np.zeros(len(trace.inputs), dtype=bool)
    for source, target in flips:
        caused |= (trace.labels == source) & (trace.predictions == target)
    faulty = np.isin(trace.clients, np.asarray(faults.clients, dtype=np.int64))
    if not faulty.any():
        caused[:] = False
    n = int(caused.sum())
    wanted = np.broadcast_to(faulty, (n, len(faulty)))
    here, chance = _rows(found, caused), no_order(n, len(faulty))
    result: dict[str, float | int] = {
        "fault_inputs": n,
        "fault_accuracy": _mean(hit(here, wanted)),
        "fault_chance": _mean(hit(chance, wanted)),
    }
    for k in HIT_AT:
        result[f"hit@{k}"] = _mean(hit(here, wanted, k))
        result[f"hit@{k}_chance"] = _mean(hit(chance, wanted, k))
    return result


def _rows(whole: Order, keep: np.ndarray) -> Order:
    return Order(whole.first[keep], whole.last[keep])


def _gap(contributions: np.ndarray) -> np.ndarray:
    if contributions.shape[1] < 2:
        return np.full(len(contributions), np.nan)
    second, best = np.partition(contributions, -2, axis=1)[:, -2:].T
    total = np.abs(contributions).sum(axis=1)
    return (best - second) / np.where(total > 0, total, 1.0)


def _mean(values: np.ndarray) -> float:
    """Mean of what is there; NaN, without a warning, where nothing is."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else np.nan
