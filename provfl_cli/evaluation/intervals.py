"""Mean and confidence interval over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit


@dataclass(frozen=True)
class Interval:
    """Mean of `count` values and the two-sided Student t interval around it; NaN bounds for fewer than two values."""

    mean: float
    low: float
    high: float
    count: int


def mean_interval(values: Iterable[float], confidence: float = 0.95) -> Interval:
    """`mean +- t(count - 1) * s / sqrt(count)`, `s` with `count - 1`; missing values are left out.

    The interval is not cut at 0 or 1: a bound beyond says that there are too few seeds.
    """
    known = np.asarray([value for value in values if not np.isnan(value)], dtype=np.float64)
    count = len(known)
    mean = float(known.mean()) if count else np.nan
    if count < 2 or not np.isfinite(mean):
        return Interval(mean, np.nan, np.nan, count)
    half = float(stdtrit(count - 1, (1 + confidence) / 2) * known.std(ddof=1) / np.sqrt(count))
    return Interval(mean, mean - half, mean + half, count)


def over_seeds(frame: pd.DataFrame, by: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """One row for each group and metric: the columns `by`, then metric, mean, low, high, count.

    `frame` has one row a seed in each group, such as the localization tables of several runs put together.
    """
    rows = [
        dict(zip(by, key, strict=True)) | {"metric": metric} | vars(mean_interval(group[metric]))
        for key, group in frame.groupby(list(by), sort=False)
        for metric in metrics
    ]
    return pd.DataFrame(rows, columns=[*by, "metric", "mean", "low", "high", "count"])
