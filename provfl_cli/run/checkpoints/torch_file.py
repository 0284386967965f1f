"""A state dict in a file of `torch.save` (`.pt`, `.pth`, `.bin`, `.ckpt`): its tensors alone, no code that it holds.

`torch.load(weights_only=True)` builds tensors and plain containers and refuses all else. The file stays where it is:
tensors of an archive are mapped, and one that is compressed, as `torch.save` never writes it, is refused, so that no
small file becomes a large one.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...bounded import Oversized, check_unpacked
from ...coverage import listed
from ...errors import InputError

KEYS = ("state_dict", "model_state_dict", "model")  # where training scripts and Lightning keep it
ARCHIVE = b"PK\x03\x04"  # how such a file begins since version 1.6
DEEPEST = 3  # state dicts in dicts in dicts
CONVERT = (
    "load it yourself, where you trust who made it, and save its tensors: "
    "safetensors.torch.save_file(state_dict, 'FILE.safetensors')"
)


def read(path: Path, what: str) -> Mapping[str, Any]:
    """The state dict in it, as it stands there or under one of the `KEYS`.

    Raises:
        InputError: it holds objects that only pickle could read, no state dict or several, or it is damaged.
    """
    with path.open("rb") as file:
        archive = file.read(len(ARCHIVE)) == ARCHIVE
    if archive:
        _check_archive(path, what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # of torch, one of many
        if match := re.search(r"(?:GLOBAL|class|function)\W+([\w.]+\.\w+)", str(error)):
            raise InputError(f"{what}: holds more than tensors ({match[1]}), which is not read: {CONVERT}") from None
        raise InputError(f"{what}: is no file of torch.save that holds tensors alone: {CONVERT}") from None
    tensors = _state_dict(content, what)
    try:
        # One number may stand for many: a tensor can be as large as it says, and its storage be small.
        dense = [tensor for tensor in tensors.values() if isinstance(tensor, Tensor) and tensor.layout == torch.strided]
        check_unpacked(sum(tensor.nbytes for tensor in dense), path.stat().st_size)
    except Oversized as error:
        raise InputError(f"{what}: {error}") from None
    return tensors


def _check_archive(path: Path, what: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        raise InputError(f"{what}: is a damaged file of torch.save") from None
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise InputError(f"{what}: is TorchScript, a program: {CONVERT}")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise InputError(f"{what}: is compressed, as torch.save does not write it: {CONVERT}")


def _state_dict(content: Any, what: str) -> Mapping[str, Any]:
    """The state dict in what a file holds."""
    for _ in range(DEEPEST):
        if not isinstance(content, Mapping) or any(isinstance(value, Tensor) for value in content.values()):
            break
        keys = [key for key in KEYS if isinstance(content.get(key), Mapping)]
        if len(keys) > 1:
            raise InputError(f"{what}: holds several state dicts ({', '.join(keys)}): {CONVERT}")
        if not keys:
            names = listed([str(key) for key in content], ", but ")
            raise InputError(f"{what}: holds no state dict, neither itself nor as {', '.join(KEYS)}{names}: {CONVERT}")
        content = content[keys[0]]
    if not isinstance(content, Mapping):
        raise InputError(f"{what}: holds a {type(content).__name__}, no state dict: torch.save(model.state_dict(), …)")
    return content
