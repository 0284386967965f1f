"""Decoded pictures and their labels, the form in which every source hands them on, and how they are sampled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Examples:
    """Pixels uint8 `[n, height, width, channels]`, labels int64 `[n]`, and the names of the classes by number.

    `fingerprint` is the one of the content as it came, before any resizing; `origin` says where from: a package and its
    version, a hub id and revision, a folder.
    """

    train_pixels: np.ndarray
    train_labels: np.ndarray
    test_pixels: np.ndarray
    test_labels: np.ndarray
    label_names: tuple[str, ...]
    fingerprint: str
    origin: str


def fingerprint(*arrays: np.ndarray) -> str:
    """Return the first 16 hexadecimal digits of the sha256 over the arrays' bytes, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def stratified(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Choose `count` positions at random such that every label keeps its share of `labels`, to within one example.

    Returns the positions in ascending order, int64 `[min(count, n)]`. Each example is placed at a random quantile
    among those of its own label; the `count` lowest quantiles are taken.
    """
    import numpy as np

    order = rng.permutation(len(labels))
    quantile = np.empty(len(labels))
    for label in np.unique(labels):
        own = order[labels[order] == label]
        quantile[own] = (np.arange(len(own)) + 0.5) / len(own)
    return np.sort(order[np.argsort(quantile[order], kind="stable")[:count]])
