"""Spearman's correlation over columns that may count several times each, as a bootstrap over them needs it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .ranking import ranks_of


@dataclass(frozen=True)
class Ordered:
    """Rows of values in order, so that ranks under any weights of the columns cost no further sort.

    Attributes:
        order: int64 `[n, m]`, columns from the smallest value of a row to the largest.
        below: int64 `[n, m]`, of each column: how many are smaller.
        upto: int64 `[n, m]`, how many are smaller or equal.
    """

    order: np.ndarray
    below: np.ndarray
    upto: np.ndarray

    def ranks(self, weights: np.ndarray) -> np.ndarray:
        """Mean ranks `[n, m]`, as if column `j` stood there `weights[j]` times, int `[m]`."""
        summed = np.zeros((self.order.shape[0], self.order.shape[1] + 1))
        np.cumsum(weights[self.order], axis=1, out=summed[:, 1:])
        ranks: np.ndarray = np.take_along_axis(summed, self.below, 1) + np.take_along_axis(summed, self.upto, 1)
        return (ranks + 1) / 2


def ordered(values: np.ndarray) -> Ordered:
    """`values` `[n, m]` in order."""
    return Ordered(
        np.argsort(values, axis=1, kind="stable"),
        ranks_of(values, "min").astype(np.int64) - 1,
        ranks_of(values, "max").astype(np.int64),
    )


def correlation(scores: Ordered, truth: Ordered, weights: np.ndarray | None = None) -> np.ndarray:
    """Spearman's correlation of each row of scores with the same row of the truth, `[n]`, ties at their mean rank.

    NaN where the truth is the same in all columns: no score would be right. 0 where the scores are: they say nothing.

    Args:
        scores, truth: of the same shape `[n, m]`.
        weights: int `[m]`, how often each column counts; None: once.
    """
    columns = scores.order.shape[1]
    weights = np.ones(columns, dtype=np.int64) if weights is None else weights
    middle = (weights.sum() + 1) / 2
    ours, theirs = scores.ranks(weights) - middle, truth.ranks(weights) - middle
    product, our_size, their_size = (
        np.einsum("ij,ij,j->i", one, other, weights) for one, other in ((ours, theirs), (ours, ours), (theirs, theirs))
    )
    size = np.sqrt(our_size * their_size)
    return np.where(their_size > 0, product / np.where(size > 0, size, 1.0), np.nan)
