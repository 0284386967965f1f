"""The tensors of a checkpoint, whatever wrote it: safetensors, a folder of Hugging Face or PEFT, npz, or `torch.save`.

The suffix says which; where it says nothing, how the file begins. A reader runs no code that a file holds, and takes no
more memory than the tensors that it gives.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...checks import LONGEST_TEXT, excerpt
from ...coverage import printable
from ...errors import InputError
from ...fusion.state_dicts import require_state_dict
from ...store.tensorfile import NAMES
from . import folder, npz_file, safetensors_file, torch_file

Reader = Callable[[Path, str], Mapping[str, Any]]

READERS: Mapping[str, Reader] = {
    ".safetensors": safetensors_file.read,
    ".npz": npz_file.read,
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), torch_file.read),
}
OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # how files of torch.save began before version 1.6
MOST_TENSORS = 100_000
RESERVED = "__metadata__"  # what a safetensors file has in the place of a tensor


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, in the order of the names; and the `adapter_config.json` of PEFT beside them, {} without one."""

    tensors: dict[str, Tensor]
    adapter: Mapping[str, Any]


def read_checkpoint(path: Path, what: str) -> Checkpoint:
    """What a file or folder holds, every tensor in its own type.

    Args:
        path: a file, a folder, or the `….index.json` of one.
        what: what the user called it, such as `--previous before.pt`.

    Raises:
        InputError: it cannot be read, is too large for what it is, holds anything but tensors, or tensors of a type
            that no round holds.
    """
    adapter: Mapping[str, Any] = {}
    try:
        if path.is_dir():
            tensors, adapter = folder.read(path, what, read_file)
        elif path.name.endswith(folder.INDEX):
            tensors = folder.read_sharded(path, what, read_file)
        else:
            tensors = read_file(path, what)
    except OSError as error:
        raise InputError(f"{what}: cannot be read ({error.strerror or 'it is no plain file'})") from None
    return Checkpoint(dict(sorted(tensors.items())), adapter)


def read_file(path: Path, what: str) -> dict[str, Tensor]:
    """As `read_checkpoint`, of one file."""
    if not path.is_file():
        raise InputError(f"{what}: is {'a pipe or a device, no file' if path.exists() else 'no such file'}")
    tensors = require_state_dict(_reader(path)(path, what), what)
    if len(tensors) > MOST_TENSORS:
        raise InputError(f"{what}: holds {len(tensors):,} tensors, at most {MOST_TENSORS:,} are read")
    for name, tensor in tensors.items():
        if not name or len(name) > LONGEST_TEXT:
            raise InputError(f"{what}: a tensor is called {excerpt(name)!r}, names have 1 to {LONGEST_TEXT:,} letters")
        if name == RESERVED or any("\ud800" <= letter <= "\udfff" for letter in name):
            raise InputError(f"{what}: a tensor is called {printable(name)}, a name that no safetensors file can hold")
        if type(tensor) is not Tensor:
            raise InputError(f"{what}: {printable(name)} is a {type(tensor).__name__}, give a plain tensor")
        if str(tensor.dtype) not in NAMES:
            raise InputError(
                f"{what}: {printable(name)} is {tensor.dtype}, which no round holds: give it as another type, such as "
                "torch.float32"
            )
    return tensors


def _reader(path: Path) -> Reader:
    """The reader of a file: by its suffix, else by its first bytes."""
    if (suffix := path.suffix.lower()) in READERS:
        return READERS[suffix]
    with path.open("rb") as file:
        start = file.read(len(OLD_TORCH))
    if start == OLD_TORCH:
        return torch_file.read
    if not zipfile.is_zipfile(path):
        return safetensors_file.read
    with zipfile.ZipFile(path) as archive:
        arrays = all(name.endswith(".npy") for name in archive.namelist())
    return npz_file.read if arrays else torch_file.read
