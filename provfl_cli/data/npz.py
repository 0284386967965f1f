"""Arrays of pictures in one `.npz` file, laid out as MedMNIST's."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from ..bounded import Oversized, check_zip
from ..errors import InputError
from .picture_shape import CHANNELS
from .split import Split


def read(file: Path, names: tuple[str, ...] | None = None) -> dict[str, Split]:
    """Read the splits train, val and test of `file`, those of them that it has: SPLIT_images and SPLIT_labels.

    Images are numbers of any type (see `reading`), `[n, height, width]`, or with 1, 3 or 4 channels, last or first,
    `[n, height, width, channels]` or `[n, channels, height, width]`; labels are whole numbers `[n]` or `[n, 1]`.
    `names` are those of the classes.

    Raises:
        InputError: a file that cannot be read, other arrays or shapes; MedMNIST's three-dimensional and its
            multi-label sets are not supported.
    """
    splits = {}
    try:
        check_zip(file)
        with np.load(file, allow_pickle=False) as arrays:
            for split in ("train", "val", "test"):
                keys = f"{split}_images", f"{split}_labels"
                if all(key in arrays for key in keys):
                    images, labels = (arrays[key] for key in keys)
                    splits[split] = _split(f"{file} {split}", images, labels, names)
            held = ", ".join(arrays)
    except Oversized as error:
        raise InputError(f"{file}: {error}") from None
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{file}: broken npz file: {reason}: fetch it again") from None
    if "train" not in splits:
        raise InputError(f"{file}: needs train_images and train_labels (val_ and test_ likewise), holds {held}")
    return splits


def _split(where: str, images: np.ndarray, labels: np.ndarray, names: tuple[str, ...] | None) -> Split:
    """One split, after a look at its shapes."""
    channels = images.ndim == 3 or (images.ndim == 4 and {images.shape[1], images.shape[-1]} & {*CHANNELS})
    if not channels or images.dtype.kind not in "biuf":
        raise InputError(
            f"{where}: images are {images.dtype} {list(images.shape)}: accepted are numbers [n, height, width], "
            "[n, height, width, channels] and [n, channels, height, width] with 1, 3 or 4 channels"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != len(images) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{where}: labels are {labels.dtype} {list(labels.shape)}: one whole number for each of the "
            f"{len(images)} images is accepted"
        )
    return Split([(f"{where} {row}", image) for row, image in enumerate(images)], labels.tolist(), names)
