"""Decoded pictures or texts with their labels, as every source hands them on, and how they are sampled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from .pixel_scale import Reading

PUBLIC_LABEL = "public"  # of examples that everybody has


@dataclass(frozen=True)
class Examples:
    """Inputs, labels int64 `[n]`, and the names of the classes by number.

    Inputs are pixels uint8 `[n, height, width, channels]`, texts: strings `[n]` of dtype object, or `Dialogue` `[n]`.

    `fingerprint` is the one of the content as it came, before any resizing; `origin` says where from: a package and its
    version, a hub id and revision, a folder. `indexed`: whether a whole number in the source's label column is the
    number of its class (see `labels.Classes`); `lines` are sentences for the user.

    Of dialogues: `public` `[n]`, what everybody has; the last label is theirs.

    Of pictures: `reading`, how their numbers became pixels; `shapes`, the (height, width) that they came in; and
    `picture_lines`, what a user should know of both.
    """

    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    label_names: tuple[str, ...]
    fingerprint: str
    origin: str
    reading: Reading | None = None
    shapes: frozenset[tuple[int, int]] = frozenset()
    picture_lines: tuple[str, ...] = ()
    indexed: bool | None = True
    lines: tuple[str, ...] = ()
    public: np.ndarray | None = None


def fingerprint(*arrays: np.ndarray) -> str:
    """Return the first 16 hexadecimal digits of the sha256 over the arrays' content, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest_content(digest, array)
    return digest.hexdigest()[:16]


def digest_content(digest: Any, array: np.ndarray) -> None:
    """Let `digest` (of hashlib) take an array's bytes; of an array of strings their UTF-8, each after its length."""
    if array.dtype != object:
        digest.update(array.tobytes())
        return
    for text in array:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)


def stratified(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Choose `count` positions at random such that every label keeps its share of `labels`, to within one example.

    Returns the positions in ascending order, int64 `[min(count, n)]`. Each example is placed at a random quantile
    among those of its own label; the `count` lowest quantiles are taken.
    """
    order = rng.permutation(len(labels))
    quantile = np.empty(len(labels))
    for label in np.unique(labels):
        own = order[labels[order] == label]
        quantile[own] = (np.arange(len(own)) + 0.5) / len(own)
    return np.sort(order[np.argsort(quantile[order], kind="stable")[:count]])
