"""A folder as `save_pretrained` writes it: an adapter of PEFT, or a model of Hugging Face in one file or in shards."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...bounded import Oversized, read_json
from ...coverage import printable
from ...errors import InputError

INDEX = ".index.json"
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
MODELS = ("model.safetensors", "pytorch_model.bin")
CONFIG = "adapter_config.json"

ReadFile = Callable[[Path, str], dict[str, Tensor]]


def read(folder: Path, what: str, read_file: ReadFile) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The tensors of a folder, and the configuration of the adapter that they are ({}: of none).

    Raises:
        InputError: it is neither, both, or its files lead out of it.
    """
    adapters = [name for name in ADAPTERS if (folder / name).exists()]
    models = [name for model in MODELS for name in (f"{model}{INDEX}", model) if (folder / name).exists()]
    if adapters and models:
        raise InputError(f"{what}: holds an adapter and a model: give {folder / adapters[0]} or {folder / models[0]}")
    if adapters:
        file = _inside(folder, adapters[0], what)
        if not (folder / CONFIG).exists():
            raise InputError(
                f"{what}: has no {CONFIG}, which says what the adapter does: model.save_pretrained(FOLDER) writes it"
            )
        return read_file(file, f"{what}: {file.name}"), _json(_inside(folder, CONFIG, what), what)
    if not models:
        raise InputError(
            f"{what}: is a folder without {', '.join((*ADAPTERS[:1], *MODELS[:1], MODELS[0] + INDEX))}: give a file, "
            "or a folder that save_pretrained wrote"
        )
    file = _inside(folder, models[0], what)
    if file.name.endswith(INDEX):
        return read_sharded(file, what, read_file), {}
    return read_file(file, f"{what}: {file.name}"), {}


def read_sharded(index: Path, what: str, read_file: ReadFile) -> dict[str, Tensor]:
    """The tensors of all shards that an index names, each from the shard that it says.

    Raises:
        InputError: a shard lies elsewhere, is missing, or holds other tensors than the index says.
    """
    shards = _json(index, what).get("weight_map")
    if not isinstance(shards, Mapping) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise InputError(f"{what}: {index.name} names no shards: its weight_map gives each tensor a file")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(shards.values())):
        held = read_file(_inside(index.parent, shard, what), f"{what}: {printable(shard)}")
        for name in held:
            if name in tensors:
                raise InputError(f"{what}: {printable(name)} is in two shards, {printable(shard)} is the second")
            if shards.get(name) != shard:
                raise InputError(f"{what}: {printable(shard)} holds {printable(name)}, which {index.name} does not say")
        tensors |= held
    if missing := sorted(shards.keys() - tensors.keys()):
        name = missing[0]
        raise InputError(f"{what}: {printable(shards[name])} has no tensor {printable(name)}, though {index.name} says")
    return tensors


def _inside(folder: Path, name: str, what: str) -> Path:
    """The file of that name in the folder; InputError where it lies elsewhere, or is no file."""
    path = folder / name
    if not name or name in (".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        raise InputError(f"{what}: names {printable(name)}, which is no file of its folder: nothing is read there")
    try:
        mode = path.lstat().st_mode
        inside = path.resolve(strict=True).is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # it is missing, or links lead round in a circle
        raise InputError(f"{what}: {printable(name)} is missing in it: copy the whole folder again") from None
    if not inside:
        raise InputError(
            f"{what}: {printable(name)} is a link to a place outside of its folder, nothing is read there: cp -rL "
            "copies a folder with what its links lead to"
        )
    if not (stat.S_ISLNK(mode) or stat.S_ISREG(mode)) or not path.is_file():
        raise InputError(f"{what}: {printable(name)} is a pipe, a device or a folder, no file: nothing is read")
    return path


def _json(path: Path, what: str) -> dict[str, Any]:
    try:
        return read_json(path)
    except Oversized as error:
        raise InputError(f"{what}: {path.name}: {error}") from None
    except (OSError, ValueError):
        raise InputError(f"{what}: {path.name} is no JSON object that can be read") from None
