"""Scores of one ranking of candidates per input, ties broken at random (in expectation, not by drawing)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Order:
    """The positions, from 1, that each candidate may take: `first` to `last`, int `[inputs, candidates]`.

    Candidates of equal rank share their positions, as if a coin decided among them.
    """

    first: np.ndarray
    last: np.ndarray


def order(rank: np.ndarray) -> Order:
    """The order that ranks `[inputs, candidates]` leave (1 is best; only `<` and `==` between ranks matter)."""
    return Order(ranks_of(rank, "min").astype(np.int64), ranks_of(rank, "max").astype(np.int64))


def no_order(inputs: int, candidates: int) -> Order:
    """Everybody tied: what a scorer makes of this order is what picking at random scores, exactly."""
    shape = (inputs, candidates)
    return Order(np.ones(shape, dtype=np.int64), np.full(shape, candidates, dtype=np.int64))


def hit(order: Order, wanted: np.ndarray, k: int = 1) -> np.ndarray:
    """Probability that one of the top `k` is wanted, `[inputs]`.

    For `k = 1` this is `|M and H| / |M|` with `M` the top set; without an order, with `f` of `K` wanted, it is
    `1 - C(K-f, k) / C(K, k)`.

    Args:
        order: of the candidates.
        wanted: bool `[inputs, candidates]`.
        k: length of the list that is looked at; more than there are candidates means all of them.
    """
    k = min(k, wanted.shape[1])
    certain = (wanted & (order.last <= k)).any(axis=1)
    tied = (order.first <= k) & (order.last > k)  # the one group, if any, of which only a part fits into the list
    size = tied.sum(axis=1)
    good = (tied & wanted).sum(axis=1)
    slots = k + 1 - np.where(tied, order.first, k + 1).min(axis=1)
    miss = np.ones(len(wanted))
    for taken in range(k):
        drawn = taken < slots
        miss[drawn] *= np.maximum(size - good - taken, 0)[drawn] / (size - taken)[drawn]
    return np.where(certain, 1.0, 1.0 - miss)


def ndcg(order: Order, gains: np.ndarray) -> np.ndarray:
    """Normalised discounted cumulative gain, `[inputs]`: NaN where all gains are 0.

    Gain: linear (`gains` as they are); discount: `1 / log2(position + 1)` over the whole list; divided by that of
    the best order. Järvelin and Kekäläinen 2002.

    Args:
        order: of the candidates.
        gains: `[inputs, candidates]`, 0 or more.
    """
    discount = 1.0 / np.log2(np.arange(gains.shape[1]) + 2.0)
    summed = np.concatenate([[0.0], np.cumsum(discount)])
    expected = (summed[order.last] - summed[order.first - 1]) / (order.last - order.first + 1)
    best = np.sort(gains, axis=1)[:, ::-1] @ discount
    with np.errstate(invalid="ignore"):
        gained: np.ndarray = (gains * expected).sum(axis=1) / np.where(best > 0, best, np.nan)
    return gained


def spearman(order: Order, values: np.ndarray) -> np.ndarray:
    """Rank correlation of the order with `values` (larger is better), ties at their mean rank, `[inputs]`.

    NaN where all values are equal: no order would be right. 0 where all candidates are tied: the order says nothing.
    """
    ours = _centred(-(order.first + order.last) / 2.0)
    theirs = _centred(ranks_of(values, "average"))
    ours_size, theirs_size = (np.sqrt((x * x).sum(axis=1)) for x in (ours, theirs))
    product = (ours * theirs).sum(axis=1) / np.where(ours_size * theirs_size > 0, ours_size * theirs_size, 1.0)
    return np.where(theirs_size > 0, product, np.nan)


def _centred(values: np.ndarray) -> np.ndarray:
    centred: np.ndarray = values - values.mean(axis=1, keepdims=True)
    return centred


def ranks_of(values: np.ndarray, ties: Literal["min", "max", "average"]) -> np.ndarray:
    """Rank of each value in its row, `[n, m]`, from 1 for the smallest. By pandas: scipy.stats takes half a second."""
    return pd.DataFrame(values).rank(axis=1, method=ties).to_numpy()
