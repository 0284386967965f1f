"""Safetensors files that are allocated first, filled piece by piece, and read lazily.

A file can be written by several processes, each its own client's slot, so no process ever holds more than one client's
model. The layout is that of the safetensors format: eight bytes with the header's length, a JSON header, the tensors.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from safetensors import safe_open

from ..bounded import check_safetensors
from ..errors import RunError
from ..imports import later
from .disk import checksum

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")

ALIGNMENT = 64  # bytes: where the tensors start, so that mapped tensors are aligned as torch's own
DTYPES = {  # as safetensors calls the types that a file may hold, and as torch does
    "F64": "torch.float64",
    "F32": "torch.float32",
    "F16": "torch.float16",
    "BF16": "torch.bfloat16",
    "I64": "torch.int64",
    "I32": "torch.int32",
    "I16": "torch.int16",
    "I8": "torch.int8",
    "U8": "torch.uint8",
    "BOOL": "torch.bool",
    "F8_E4M3": "torch.float8_e4m3fn",
    "F8_E4M3FNUZ": "torch.float8_e4m3fnuz",
    "F8_E5M2": "torch.float8_e5m2",
    "F8_E5M2FNUZ": "torch.float8_e5m2fnuz",
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}  # by `str(dtype)`

Specs = Mapping[str, tuple["torch.dtype", tuple[int, ...]]]


def specs_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of every tensor, by name."""
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def stacked(specs: Specs, clients: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """The same tensors with a first dimension for `clients`."""
    return {name: (dtype, (clients, *shape)) for name, (dtype, shape) in specs.items()}


def size_of(specs: Specs) -> int:
    """Bytes that tensors of these types and shapes take."""
    return sum(_size(dtype, shape) for dtype, shape in specs.values())


def _size(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return dtype.itemsize * torch.Size(shape).numel()


def _bytes(tensor: Tensor) -> memoryview:
    """The content of a tensor, without copying where it lies on the CPU in order."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def allocate(path: Path, specs: Specs, metadata: Mapping[str, str] | None = None) -> None:
    """Make a file with room for tensors of these types and shapes; the same specs and metadata give the same bytes.

    Raises:
        OSError: where the disk has no room left.
    """
    header: dict[str, Mapping[str, object]] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    # The widest types first, then by name: every tensor then starts at a multiple of its item size.
    for name in sorted(specs, key=lambda name: (-specs[name][0].itemsize, name)):
        dtype, shape = specs[name]
        start, end = end, end + _size(dtype, shape)
        header[name] = {"dtype": NAMES[str(dtype)], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.flush()
        total = 8 + len(text) + end
        if end and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, total)
        else:
            file.truncate(total)


def _header(file: IO[bytes]) -> tuple[dict[str, dict[str, list[int]]], int]:
    """Header of an open file, and where its tensors start."""
    (length,) = struct.unpack("<Q", file.read(8))
    return json.loads(file.read(length)), 8 + length


def write_slot(path: Path, tensors: Mapping[str, Tensor], slot: int) -> None:
    """Write one client's tensors into slot number `slot` of an allocated file of stacked tensors."""
    with path.open("r+b", buffering=0) as file:
        header, base = _header(file)
        for name, tensor in tensors.items():
            start, end = header[name]["data_offsets"]
            content = _bytes(tensor)
            if (slot + 1) * len(content) > end - start:
                raise ValueError(f"{name}: slot {slot} lies outside {path}")
            _write_all(file, content, base + start + slot * len(content))


def write_pieces(path: Path, pieces: Iterable[tuple[str, int, int, Tensor]]) -> None:
    """Write parts of stacked tensors into an allocated file, as they come.

    Args:
        path: the file.
        pieces: name, slot, the first row of that slot, and the rows to write there, `[rows, *rest]`, in the file's
            type; a slot without dimensions is one row.
    """
    with path.open("r+b", buffering=0) as file:
        header, base = _header(file)
        for name, slot, first, values in pieces:
            (start, end), shape = header[name]["data_offsets"], header[name]["shape"]
            whole = (end - start) // shape[0]
            row = whole // shape[1] if len(shape) > 1 and shape[1] else whole
            content = _bytes(values)
            if slot >= shape[0] or first * row + len(content) > whole:
                raise ValueError(f"{name}: rows {first} onwards of slot {slot} lie outside {path}")
            _write_all(file, content, base + start + slot * whole + first * row)


def keep_slots(path: Path, slots: Sequence[int]) -> None:
    """Let a file of stacked tensors hold these slots alone, in this order."""
    stack = open_tensors(path)
    kept = path.with_name(f".{path.name}")
    # One by one: no process ever holds more than one client's model.
    allocate(kept, stacked({name: (stack[name].dtype, tuple(stack[name].shape[1:])) for name in stack}, len(slots)))
    for target, slot in enumerate(slots):
        write_slot(kept, {name: stack[name][slot] for name in stack}, target)
    kept.replace(path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a whole safetensors file; the same tensors, and words about them, give the same bytes."""
    allocate(path, specs_of(tensors), metadata)
    with path.open("r+b", buffering=0) as file:
        header, base = _header(file)
        for name, tensor in tensors.items():
            _write_all(file, _bytes(tensor), base + header[name]["data_offsets"][0])


def _write_all(file: IO[bytes], content: memoryview, offset: int) -> None:
    file.seek(offset)
    while len(content):
        content = content[file.write(content) :]


@dataclass(frozen=True)
class TensorFile(Mapping[str, "Tensor"]):
    """The tensors of a safetensors file by name, memory-mapped: only the pages that are read leave the disk.

    `file[name]` maps the whole tensor without copying it; a slice of it reads no more than the slice. Writing to such a
    tensor changes private memory, never the file. Open it with `open_tensors`.
    """

    path: Path
    names: tuple[str, ...]
    handle: object
    mapped: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.mapped:  # a trace asks for each a dozen times, and the library takes a while to make it
            if name not in self.names:
                raise KeyError(name)
            self.mapped[name] = self.handle.get_tensor(name)  # type: ignore[attr-defined]
        return self.mapped[name].detach()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def open_tensors(path: Path, sha256: str | None = None) -> TensorFile:
    """Open a safetensors file for lazy reading, after comparing its content with a checksum where one is given.

    Raises:
        RunError: where the file is missing, damaged, or not what was written.
    """
    if not path.is_file():
        raise RunError(f"{path} is missing: {remedy(path.parent)}")
    try:
        if sha256 is not None and checksum(path) != sha256:
            raise RunError(
                f"{path} is damaged (its checksum differs from the one written with it): {remedy(path.parent)}"
            )
        check_safetensors(path)
        handle = safe_open(path, framework="pt")
    except RunError:
        raise
    except Exception as error:
        raise RunError(f"{path} cannot be read ({error}): {remedy(path.parent)}") from error
    return TensorFile(path, tuple(sorted(handle.keys())), handle)


def remedy(folder: Path) -> str:
    """What to do where a file of the stored round in `folder` is damaged: what others trained is not trained anew."""
    if (folder.resolve().parents[1] / "recorded.json").is_file():
        return "copy the recorded federation again from where it came, or record it again in another folder"
    return f"delete {folder} and run again: the round is trained anew"
