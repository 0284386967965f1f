"""Removal curves: what becomes of predictions when a federation is retrained without the first clients of an order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .contributions import Trace
from .truth import Retrained

REMOVED = (1, 2, 3)


@dataclass(frozen=True)
class Fall:
    """What retraining without some clients changes.

    Attributes:
        margin: float64 `[n]`, how much the margin of the explained class of each input falls.
        flips: float64 `[n]`, 1 where another class is predicted, else 0; of several retrainings the mean of both.
        sets: in how many retrainings.
    """

    margin: np.ndarray
    flips: np.ndarray
    sets: int


def removal_scores(trace: Trace, clients: np.ndarray) -> np.ndarray:
    """By what clients of a federation go first: mean contribution to the traced inputs, float64 `[K]`.

    One that the trace does not rank goes last: its score is -inf.

    Raises:
        ValueError: the trace has a client that is not among `clients`, int `[K]` ascending.
    """
    if not np.isin(trace.clients, clients).all():
        raise ValueError(f"clients {trace.clients.tolist()} were traced, {clients.tolist()} are in the federation")
    scores = np.full(len(clients), -np.inf)
    if len(trace.inputs):
        scores[np.searchsorted(clients, trace.clients)] = trace.contributions.mean(axis=0)
    return scores


def first_clients(scores: np.ndarray, count: int) -> np.ndarray:
    """Those `count` of the clients `[K]` that score most, of equal ones those with the smaller numbers: bool `[K]`."""
    first = np.zeros(len(scores), dtype=bool)
    first[np.argsort(-scores, kind="stable")[:count]] = True
    return first


def fall(truth: Retrained, scores: np.ndarray, count: int) -> Fall | None:
    """What retraining without the first clients of an order changes, against retraining with everybody.

    Args:
        truth: what retraining changed.
        scores: float64 `[K]`, which clients come first.
        count: how many are gone.

    Returns:
        None where nobody was retrained without just these, whatever for.
    """
    found = truth.row(~first_clients(scores, count))
    return _fall(truth, np.array([found] if found >= 0 else [], dtype=np.int64))


def random_fall(truth: Retrained, count: int) -> Fall | None:
    """The same without `count` clients drawn at random, the mean of the draws.

    Over all sets of so many clients where all were retrained, else over the random orders of the design `removal`.
    """
    without = (~truth.subsets).sum(axis=1) == count
    sets = np.unique(truth.subsets[without], axis=0)
    rows = truth.rows(sets)
    rows = rows[rows >= 0]
    if len(rows) < math.comb(len(truth.clients), count):
        rows = truth.removals("random", count)
    return _fall(truth, rows)


def _fall(truth: Retrained, rows: np.ndarray) -> Fall | None:
    if not len(rows) or truth.full < 0:
        return None
    whole = [truth.full]
    return Fall(
        (truth.values[:, whole] - truth.values[:, rows]).mean(axis=1),
        (truth.predictions[:, whole] != truth.predictions[:, rows]).mean(axis=1),
        len(rows),
    )
