"""Linear datamodeling score of whole clients, and what limits it.

Does the sum of the contributions of some clients tell what a federation of just these would predict? Park et al. 2023
(TRAK) ask it of training examples.
"""

from __future__ import annotations

import numpy as np

from .rank_correlation import correlation, ordered
from .truth import Retrained

FOLDS = 5
PENALTIES = 10.0 ** np.arange(-3, 5)
ROUNDING = 9  # digits, relative to sum |T|, beyond which sums over subsets count as equal


def subset_scores(contributions: np.ndarray, subsets: np.ndarray) -> np.ndarray:
    """`sum_{k in S} T_k(b)` for each subset, float64 `[n, m]`; sums that differ by rounding alone are made equal.

    Args:
        contributions: float64 `[n, K]`.
        subsets: bool `[m, K]`.
    """
    scale = np.abs(contributions).sum(axis=1, keepdims=True)
    sums = contributions @ subsets.T.astype(np.float64)
    rounded: np.ndarray = np.round(sums / np.where(scale > 0, scale, 1.0), ROUNDING)
    return rounded


def lds(contributions: np.ndarray, subsets: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each input, Spearman over subsets between the summed contributions and what retraining gives, `[n]`.

    NaN where retraining gives the same value for all subsets, 0 where the sums are all the same.

    Args:
        contributions: float64 `[n, K]`.
        subsets: bool `[m, K]`, the clients that each retraining kept.
        values: float64 `[n, m]`, of the explained class in the retrained models.
    """
    return correlation(ordered(subset_scores(contributions, subsets)), ordered(values))


def seed_ceiling(truth: Retrained) -> tuple[np.ndarray, np.ndarray]:
    """What retraining the same subsets with another training seed says of the first: no method can know more.

    Returns:
        Scores and values, float64 `[n, p]`, of the `p` subsets that were trained twice.
    """
    first, other = truth.random_pairs
    return truth.values[:, other], truth.values[:, first]


def datamodel_scores(subsets: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What a linear model of the retrained values, fitted to other subsets, says of each subset, float64 `[n, m]`.

    For each input a ridge regression of the value on which clients are kept, its penalty chosen by leaving one subset
    out (in closed form). Subsets are dealt to five folds; those of a fold are scored by what was fitted to the other
    four. A score is the sum of the coefficients of the clients kept, without the intercept: that differs between folds,
    and always the wrong way (the mean of the others is low where a fold's values are high). Of pure noise the score is
    then about -0.05 (with the intercepts -0.2).

    Args:
        subsets: bool `[m, K]`, all different.
        values: float64 `[n, m]`.
    """
    count = len(subsets)
    fold = np.random.default_rng(0).permutation(count) % min(FOLDS, count)
    scores = np.empty(values.shape)
    for number in range(fold.max() + 1):
        out = fold == number
        scores[:, out] = ridge(subsets[~out], values[:, ~out]) @ subsets[out].T.astype(np.float64)
    return scores


def ridge(subsets: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Coefficients of the clients, float64 `[n, K]`: ridge regression with an intercept.

    Args:
        subsets: bool `[m, K]`.
        values: float64 `[n, m]`.
    """
    x = subsets - subsets.mean(axis=0)
    y = values - values.mean(axis=1, keepdims=True)
    left, sizes, right = np.linalg.svd(x, full_matrices=False)
    turned = y @ left
    squares = sizes**2
    errors = np.empty((len(PENALTIES), len(values)))
    for number, penalty in enumerate(PENALTIES):
        kept = squares / (squares + penalty)
        leverage = (left**2) @ kept + 1 / len(subsets)
        missed = (y - (turned * kept) @ left.T) / np.maximum(1 - leverage, 1e-12)
        errors[number] = (missed**2).mean(axis=1)
    best = PENALTIES[errors.argmin(axis=0)]
    coefficients: np.ndarray = (turned * sizes / (squares + best[:, None])) @ right
    return coefficients
