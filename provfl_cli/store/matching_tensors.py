"""Whether the files of a stored round hold tensors of one model: told from their headers, before anything is traced."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path

from ..bounded import check_safetensors
from ..coverage import printable
from ..errors import RunError
from ..fusion.decomposition import BITS
from .rounds import BASES, CLIENTS, CORRECTIONS, DECOMPOSITION, GLOBAL, PREVIOUS, Round
from .tensorfile import DTYPES, remedy

Header = Mapping[str, tuple[str, tuple[int, ...]]]
"""Type, as safetensors calls it, and shape of every tensor by name."""

FLOATING = {name for name in DTYPES if name[0] == "F" or name == "BF16"}
MIXED = ("flower", "import")  # sources of rounds whose files may differ in these: clients may send half precision

FACTORS = {  # of `Multiplier`, and those that are there with each
    "scalars": (),
    "shared": ("scalars",),
    "bits": ("scalars", "values"),
    "values": ("scalars", "bits"),
}


def check_tensors(stored: Round) -> None:
    """Compare names, types and shapes of a round's tensors with those of its global model.

    What the clients returned and their corrections are `[clients, *shape]`, what late clients started from `[*shape]`.
    Types of fractions may differ in rounds of Flower apps and imports, whose tensors keep those in which they were
    sent. No tensor is read, so that checksums are compared only where one is.

    Raises:
        RunError: a file cannot be read, or a tensor in it is missing, unknown, or of another type or shape; one line
            that names file and tensor.
    """
    model, clients = _header(stored, GLOBAL), len(stored.clients)
    for name, (dtype, _) in model.items():
        if dtype not in DTYPES:
            raise _wrong(stored, GLOBAL, f"{printable(name)} is of type {dtype}, which no round holds")
    if unknown := sorted(stored.buffers - model.keys()):
        raise _wrong(stored, GLOBAL, f"it has no tensor {printable(unknown[0])}, a buffer by round.json")
    _compare(stored, PREVIOUS, model, _header(stored, PREVIOUS))
    _compare(stored, CLIENTS, _stacks(model, clients), _header(stored, CLIENTS))
    if CORRECTIONS in stored.checksums:
        header = _header(stored, CORRECTIONS)
        stacks = _stacks(model, clients)
        _compare(stored, CORRECTIONS, {name: stacks[name] for name in stacks if name in header}, header)
    if BASES in stored.checksums:
        header = _header(stored, BASES)
        late = [slot for slot in map(str, range(clients)) if any(name.startswith(f"{slot}/") for name in header)]
        _compare(stored, BASES, {f"{slot}/{name}": model[name] for slot in late for name in model}, header)
    if DECOMPOSITION in stored.checksums:
        _check_decomposition(stored, model)


def _check_decomposition(stored: Round, model: Header) -> None:
    """Of each part of the decomposition: that it is of a tensor of the model, and fits its shape."""
    header = _header(stored, DECOMPOSITION)
    for entry, (dtype, shape) in header.items():
        group, _, name = entry.partition("/")
        kind, _, part = group.partition(":")
        if name not in model or not part or not (kind == "unsent" or (kind == "multiplier" and part in FACTORS)):
            raise _wrong(stored, DECOMPOSITION, f"{printable(entry)} is of no tensor of {GLOBAL}")
        own = model[name][1]
        fits = own if kind == "unsent" else _shape_of(part, own, len(stored.clients), shape[0] if shape else 1)
        if dtype not in DTYPES or shape != fits:
            raise _wrong(stored, DECOMPOSITION, f"{printable(entry)} is {_shown(dtype, shape)}, not {list(fits)}")
        for other in FACTORS[part] if kind == "multiplier" else ():
            if f"multiplier:{other}/{name}" not in header:
                raise _wrong(stored, DECOMPOSITION, f"it has no tensor multiplier:{other}/{printable(name)}")


def _shape_of(part: str, own: tuple[int, ...], clients: int, terms: int) -> tuple[int, ...]:
    """The shape of a factor of `Multiplier` for a parameter of the shape `own`."""
    shapes = {
        "scalars": (clients,),
        "shared": own,
        "values": (terms, *own),
        "bits": (terms, clients, own[0] if own else 1, -(-prod(own[1:]) // BITS)),
    }
    return shapes[part]


def _compare(stored: Round, file: str, expected: Header, header: Header) -> None:
    for name, (dtype, shape) in expected.items():
        if name not in header:
            raise _wrong(stored, file, f"it has no tensor {printable(name)}")
        same = header[name][0] == dtype or (stored.source in MIXED and {dtype, header[name][0]} <= FLOATING)
        if not same or header[name][1] != shape:
            fits = f"to fit {GLOBAL} and round.json it would be {_shown(dtype, shape)}"
            raise _wrong(stored, file, f"{printable(name)} is {_shown(*header[name])}, {fits}")
    if unknown := sorted(header.keys() - expected.keys()):
        raise _wrong(stored, file, f"{printable(unknown[0])} is no tensor of {GLOBAL}")


def _stacks(model: Header, clients: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (dtype, (clients, *shape)) for name, (dtype, shape) in model.items()}


def _header(stored: Round, file: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    path = stored.folder / file
    try:
        return header_of(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing: {remedy(stored.folder)}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{path} cannot be read (its header: {error}): {remedy(stored.folder)}") from error


def header_of(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor in a safetensors file, by name.

    Raises:
        OSError: the file cannot be read.
        ValueError, KeyError, TypeError, AttributeError: it is no safetensors file.
    """
    check_safetensors(path)
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return {
        name: (str(tensor["dtype"]), tuple(map(int, tensor["shape"])))
        for name, tensor in header.items()
        if name != "__metadata__"
    }


def _shown(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{printable(dtype)} {list(shape)}"


def _wrong(stored: Round, file: str, reason: str) -> RunError:
    return RunError(f"{stored.folder / file} cannot be traced: {reason}: {remedy(stored.folder)}")
