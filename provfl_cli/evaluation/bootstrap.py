"""Percentile intervals by drawing again: inputs, or inputs and subsets, with replacement (Efron; Owen 2007)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .intervals import CONFIDENCE, Interval, mean_there
from .rank_correlation import Ordered, correlation

DRAWS = 1000


def mean_over_inputs(values: np.ndarray, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean of what is there of `values` `[n]`, and the interval from drawing inputs again.

    Fewer than two values, and `draws` of 0, have no bounds.
    """
    there = values[~np.isnan(values)]
    mean = float(there.mean()) if len(there) else np.nan
    if len(there) < 2 or not draws:
        return Interval(mean, np.nan, np.nan, len(there))
    drawn = np.random.default_rng(seed).integers(len(there), size=(draws, len(there)))
    return Interval(mean, *_bounds(there[drawn].mean(axis=1)), len(there))


def mean_correlation(scores: Ordered, truth: Ordered, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean over inputs of Spearman's correlation over subsets, and the interval from drawing both again.

    Inputs are traced in the same retrainings, so that drawing inputs alone would promise too much: each draw takes
    inputs with replacement and, independently of them, subsets with replacement.

    Args:
        scores, truth: `[n, m]`.
        draws: how many; 0: no bounds.
        seed: of the draws.
    """
    each = correlation(scores, truth)
    count = int((~np.isnan(each)).sum())
    inputs, subsets = scores.order.shape
    if count < 2 or subsets < 2 or not draws:
        return Interval(mean_there(each), np.nan, np.nan, count)
    random = np.random.default_rng(seed)
    means = [mean_there(correlation(scores, truth, times)[at]) for at, times in _drawn(random, inputs, subsets, draws)]
    return Interval(mean_there(each), *_bounds(np.asarray(means)), count)


def _drawn(
    random: np.random.Generator, inputs: int, subsets: int, draws: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Which inputs, and how often each subset."""
    for _ in range(draws):
        at = random.integers(inputs, size=inputs)
        yield at, np.bincount(random.integers(subsets, size=subsets), minlength=subsets)


def _bounds(means: np.ndarray) -> tuple[float, float]:
    means = means[~np.isnan(means)]
    if not len(means):
        return np.nan, np.nan
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
