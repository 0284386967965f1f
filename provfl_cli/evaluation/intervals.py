"""Means over seeds and their 95% intervals, which never leave the range of the metric (results/README.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtrit

CONFIDENCE = 0.95
FEWEST_SEEDS = 3  # two say how far they lie apart, and a t interval from them is 13 times as wide


@dataclass(frozen=True)
class Interval:
    """Mean of `count` values and the two-sided interval around it; NaN bounds where there is none."""

    mean: float
    low: float
    high: float
    count: int


def mean_there(values: np.ndarray) -> float:
    """Mean of what is there; NaN, without a warning, where nothing is."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else np.nan


def wilson(share: float, count: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's interval of a share of `count` things, which need not be whole; NaN where there are none (1927)."""
    if not count > 0 or np.isnan(share):
        return np.nan, np.nan
    z = float(ndtri((1 + confidence) / 2))
    if np.isinf(count):
        return share, share
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def mean_interval(
    values: Iterable[float],
    confidence: float = CONFIDENCE,
    range: tuple[float, float] = (-np.inf, np.inf),
    inputs: float = np.inf,
) -> Interval:
    """The mean over seeds and its interval; missing values are left out.

    Fewer than three seeds have none, nor have seeds that agree exactly, unless it is known of how many inputs: they
    tell nothing of how far others would lie apart.

    Without a range: Student's, `mean +- t(S - 1) * s / sqrt(S)` of `S` seeds with the standard deviation `s` between
    them. With a range open on one side: the same, cut there. With a bounded range: Wilson's interval of the mean, on a
    scale from 0 to 1, of as many things as would give the variance between seeds, `p (1 - p) / (s^2 / S)`, times
    `(z / t(S - 1))^2` for knowing `s` from few seeds only; of no more than there are `inputs` in all, so that seeds
    that happen to agree promise no more than their inputs do (Korn and Graubard 1998).

    Args:
        values: one of each seed.
        confidence: of the interval.
        range: of the metric.
        inputs: of a share of inputs, how many in all seeds together.
    """
    known = np.asarray([value for value in values if not np.isnan(value)], dtype=np.float64)
    count = len(known)
    mean = float(known.mean()) if count else np.nan
    low, high = range
    alike = not np.isfinite(inputs) and count > 0 and np.ptp(known) < 1e-12 * max(1.0, abs(mean))
    if count < FEWEST_SEEDS or not np.isfinite(mean) or alike:
        return Interval(mean, np.nan, np.nan, count)
    t, variance = float(stdtrit(count - 1, (1 + confidence) / 2)), float(known.var(ddof=1)) / count
    if not np.isfinite(high - low):
        half = t * np.sqrt(variance)
        return Interval(mean, max(low, mean - half), min(high, mean + half), count)
    share, spread = (mean - low) / (high - low), variance / (high - low) ** 2
    z = float(ndtri((1 + confidence) / 2))
    as_many = share * (1 - share) / spread * (z / t) ** 2 if spread > 1e-18 else np.inf
    lower, upper = wilson(min(1.0, max(0.0, share)), min(inputs, as_many), confidence)
    return Interval(mean, low + (high - low) * lower, low + (high - low) * upper, count)


def over_seeds(
    frame: pd.DataFrame,
    by: Sequence[str],
    metrics: Sequence[str],
    ranges: Mapping[str, tuple[float, float]] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """One row for each group and metric: the columns `by`, then metric, mean, low, high, count.

    Args:
        frame: one row a seed in each group, such as the localization tables of several runs put together.
        by: the columns that name a group.
        metrics: columns.
        ranges: of metrics that have one.
        inputs: of metrics that are shares of inputs, the column with how many.
    """
    rows = []
    for key, group in frame.groupby(list(by), sort=False):
        for metric in metrics:
            counted = (inputs or {}).get(metric)
            there = group[metric].notna()
            interval = mean_interval(
                group[metric],
                range=(ranges or {}).get(metric, (-np.inf, np.inf)),
                inputs=float(group.loc[there, counted].sum()) if counted in group else np.inf,
            )
            rows.append(dict(zip(by, key, strict=True)) | {"metric": metric} | vars(interval))
    return pd.DataFrame(rows, columns=[*by, "metric", "mean", "low", "high", "count"])
