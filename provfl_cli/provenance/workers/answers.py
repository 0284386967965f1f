"""What a process that traced a batch answers: arrays as safetensors, everything else as JSON. Nothing is unpickled."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ...errors import RunError
from ..sums import Sums

# What JSON has no word for is written as an object of one key, which says what it is.
_TENSOR, _DICT, _SET, _TUPLE = "tensor", "dict", "set", "tuple"


def packed(sums: Sequence[Sums]) -> bytes:
    """The sums of one batch, one for each target: the length of a JSON text, the text, and its arrays behind it.

    Raises:
        TypeError: a field holds something else than tensors, names and numbers.
    """
    from safetensors.torch import save

    arrays: list[Tensor] = []
    text = json.dumps(
        [{field.name: _plain(getattr(part, field.name), arrays) for field in fields(Sums)} for part in sums]
    )
    # A copy each: safetensors refuses tensors that share memory.
    tensors = {str(number): array.detach().cpu().clone(memory_format=torch.contiguous_format)
               for number, array in enumerate(arrays)}  # fmt: skip
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded + save(tensors)


def unpacked(answer: bytes) -> list[Sums]:
    """The way back, the arrays byte for byte.

    Raises:
        RunError: `packed` has not made it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        (length,) = struct.unpack_from("<Q", answer)
        arrays = load(answer[8 + length :])
        return [
            Sums(**{name: _restored(value, arrays) for name, value in part.items()})
            for part in json.loads(answer[8 : 8 + length])
        ]
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, SafetensorError) as error:
        raise RunError("a process that traced a batch answered something else than its sums") from error


def _plain(value: Any, arrays: list[Tensor]) -> Any:
    """`value` for JSON; its tensors go to the end of `arrays`."""
    if isinstance(value, Tensor):
        arrays.append(value)
        return {_TENSOR: len(arrays) - 1}
    if isinstance(value, Mapping):
        return {_DICT: [[_plain(key, arrays), _plain(item, arrays)] for key, item in value.items()]}
    if isinstance(value, set | frozenset):
        return {_SET: sorted(value)}
    if isinstance(value, tuple):
        return {_TUPLE: [_plain(item, arrays) for item in value]}
    if isinstance(value, list):
        return [_plain(item, arrays) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{type(value).__name__} cannot be sent to another process")


def _restored(value: Any, arrays: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restored(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == _TENSOR:
        return arrays[str(content)]
    if kind == _DICT:
        return {_restored(key, arrays): _restored(item, arrays) for key, item in content}
    if kind == _SET:
        return set(content)
    if kind == _TUPLE:
        return tuple(_restored(item, arrays) for item in content)
    raise ValueError(kind)
