"""Removal curves: what becomes of a prediction when a federation is retrained without the top clients of a method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .truth import Retrained

REMOVED = (1, 2, 3)
RANDOM_SETS = 10  # of so many clients, where there are more
DIGITS = 6  # relative to sum |T|: contributions that are closer count as equal, and the smaller number goes first


@dataclass(frozen=True)
class Fall:
    """What retraining without some clients changes for each of `n` inputs; NaN where there is no such retraining.

    Attributes:
        margin: float64 `[n]`, how much the margin of the explained class falls.
        flips: float64 `[n]`, 1 where another class is predicted, else 0.
    """

    margin: np.ndarray
    flips: np.ndarray


def top_sets(contributions: np.ndarray, count: int) -> np.ndarray:
    """The `count` clients with the largest contributions to each input, of equal ones those with the smaller numbers.

    Args:
        contributions: float64 `[n, K]`, clients ascending.
        count: how many; where it is no less than `K`, nobody would be left, and no client is marked.

    Returns:
        bool `[n, K]`.
    """
    marked = np.zeros(contributions.shape, dtype=bool)
    if count < contributions.shape[1]:
        scale = np.abs(contributions).sum(axis=1, keepdims=True)
        rounded = np.round(contributions / np.where(scale > 0, scale, 1.0), DIGITS)
        np.put_along_axis(marked, np.argsort(-rounded, axis=1, kind="stable")[:, :count], True, axis=1)
    return marked


def random_sets(clients: int, count: int, seed: int) -> np.ndarray:
    """Different sets of `count` of so many clients, bool `[s, clients]`: all there are, or ten of them drawn."""
    if not 0 < count < clients:
        return np.zeros((0, clients), dtype=bool)
    if math.comb(clients, count) <= RANDOM_SETS:
        drawn = list(combinations(range(clients), count))
    else:
        random, found = np.random.default_rng([seed, clients, count]), dict[tuple[int, ...], None]()
        while len(found) < RANDOM_SETS:
            found[tuple(sorted(random.choice(clients, size=count, replace=False).tolist()))] = None
        drawn = list(found)
    sets = np.zeros((len(drawn), clients), dtype=bool)
    np.put_along_axis(sets, np.asarray(drawn), True, axis=1)
    return sets


def fall(truth: Retrained, removed: np.ndarray) -> Fall:
    """What retraining without the clients removed for each input changes, against retraining with everybody.

    Args:
        truth: of `n` inputs.
        removed: bool `[n, K]`; nobody removed is not looked at.
    """
    rows = truth.rows(~removed)
    there = (rows >= 0) & removed.any(axis=1) & (truth.full >= 0)
    at = np.arange(len(rows))
    margin = np.where(there, truth.values[:, truth.full] - truth.values[at, rows], np.nan)
    flips = np.where(there, truth.predictions[:, truth.full] != truth.predictions[at, rows], np.nan)
    return Fall(margin, flips)


def random_fall(truth: Retrained, count: int) -> Fall:
    """The same without `count` clients drawn at random, the mean for each input.

    Over all sets of so many clients where all were retrained, else over those of `random_sets` that were.
    """
    clients = len(truth.clients)
    every = np.flatnonzero((~truth.subsets).sum(axis=1) == count)
    sets = np.unique(~truth.subsets[every], axis=0) if len(every) else np.zeros((0, clients), dtype=bool)
    sets = sets[truth.rows(~sets) >= 0]
    if len(sets) < math.comb(clients, count):
        sets = random_sets(clients, count, truth.seed)
    rows = truth.rows(~sets)
    rows = rows[rows >= 0]
    if not len(rows) or truth.full < 0:
        nothing = np.full(len(truth.inputs), np.nan)
        return Fall(nothing, nothing)
    flips = truth.predictions[:, rows] != truth.predictions[:, [truth.full]]
    return Fall((truth.values[:, [truth.full]] - truth.values[:, rows]).mean(axis=1), flips.mean(axis=1))
