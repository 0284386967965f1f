"""Arrays in one `.npz` file of numpy, such as `numpy.savez(FILE, **arrays)` writes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...bounded import Oversized, check_zip
from ...coverage import printable
from ...errors import InputError

WRITTEN = "numpy.savez('FILE.npz', **{name: tensor.numpy() for name, tensor in model.state_dict().items()})"


def read(path: Path, what: str) -> dict[str, Tensor]:
    """All arrays as tensors; InputError where it is no such file, or holds anything but arrays of numbers."""
    try:
        check_zip(path)
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        strange = [name for name in members if not name.endswith(".npy")]
        if strange or len(set(members)) < len(members):
            raise InputError(f"{what}: is no npz file of arrays: {WRITTEN}")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _tensor(arrays, name, what) for name in arrays.files}
    except Oversized as error:
        raise InputError(f"{what}: {error}") from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, NotImplementedError, MemoryError):
        raise InputError(f"{what}: is no npz file, or a damaged one: {WRITTEN}") from None


def _tensor(arrays: np.lib.npyio.NpzFile, name: str, what: str) -> Tensor:
    """One array. Those of Python objects numpy refuses to read, since that would run what pickle says."""
    try:
        array = arrays[name]
        if not isinstance(array, np.ndarray):  # what does not begin like an array comes as bytes
            raise TypeError
        return torch.from_numpy(np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C"))
    except (ValueError, TypeError, KeyError) as error:
        kind = "of Python objects" if "allow_pickle" in str(error) else "no array of numbers that torch has"
        raise InputError(f"{what}: {printable(name)} is {kind}: {WRITTEN}") from None
