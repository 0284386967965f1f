"""Arrays as Flower serializes them, numpy's own format, read without numpy's reader.

That parses the header as Python, for which two threads at a time are too many in Python 3.11: one of them fails ("AST
constructor recursion depth mismatch"), and it might be the federation's. Here a thread reads while the next round
trains.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from flwr.app import Array
from torch import Tensor

HEADER = re.compile(r"\{'descr': '([^']+)', 'fortran_order': (True|False), 'shape': \(([\d, ]*)\),? ?\}\s*")
MAGIC = b"\x93NUMPY"
NUMPY = "numpy.ndarray"  # how Flower calls this way of serializing


def shape_of(array: Array) -> tuple[int, ...]:
    """The shape that is written in an array's header."""
    header = _header(array)
    return tuple(array.numpy().shape) if header is None else header[2]


def tensor(array: Array) -> Tensor:
    """An array as a tensor of its own type."""
    header = _header(array)
    if header is None:
        return torch.from_numpy(array.numpy())
    kind, by_columns, shape, start = header
    values = np.frombuffer(array.data, dtype=np.dtype(kind), offset=start)
    return torch.from_numpy(values.reshape(shape, order="F" if by_columns else "C").copy(order="C"))


def _header(array: Array) -> tuple[str, bool, tuple[int, ...], int] | None:
    """Type, whether columns come first, shape, and where the numbers start; None: it is written in another way."""
    data = array.data
    if array.stype != NUMPY or data[:6] != MAGIC or len(data) < 12:
        return None
    wide = 2 if data[6] == 1 else 4  # bytes of the header's length, by version
    start = 8 + wide + int.from_bytes(data[8 : 8 + wide], "little")
    match = HEADER.fullmatch(data[8 + wide : start].decode("latin1"))
    if match is None:
        return None
    shape = tuple(int(size) for size in match[3].replace(" ", "").split(",") if size)
    return match[1], match[2] == "True", shape, start
