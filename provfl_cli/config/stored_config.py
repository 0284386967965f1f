"""The configuration of a run that has ended, read back from its folder: data, whoever made it.

What it may call is what the built-in tree names. Where clients trained, how a trace was spread, where things were
cached and logged has no effect any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import check_plain
from ..errors import InputError
from .builtin import defaults, refuse_other_names, written_default
from .schema import Config
from .stored_yaml import choices_of, followed, read_block, read_yaml, refers
from .validate import fitted_config

HYDRA = ".hydra"  # the folder of these files in a run's folder
UNUSED: Mapping[str, Any] = {  # blocks that have no effect, and what stands in their place
    "engine": {"name": "local"},
    "store": {"cache": "outputs/cache", "keep": "last", "max_gb": 1.0},
    "tracker": None,
    "experiment": None,
}
SPREAD = ("shards", "shard_on")  # of a trace: over which processes, on which machines


@dataclass(frozen=True)
class StoredConfig:
    """A run's configuration, and what of it is not known: a sentence for each."""

    config: Config
    notes: tuple[str, ...]


def stored_config(folder: Path, trust: bool = False) -> StoredConfig:
    """The configuration in a run's folder.

    Args:
        folder: of the run.
        trust: whether it may name functions and classes that are no part of ProvFL; they are imported.

    Raises:
        FileNotFoundError: a file of it is missing.
        InputError: it names such, was not read, or does not fit; nothing has been imported.
    """
    file = folder / HYDRA / "config.yaml"
    raw, chosen = read_block(file), choices_of(folder / HYDRA / "hydra.yaml")
    try:
        plain = followed(raw, defaults(raw, chosen))
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    if not trust:
        refuse_other_names(plain, file)
    plain |= UNUSED
    provenance = plain.get("provenance")
    if isinstance(provenance, dict):
        plain["provenance"] = {key: value for key, value in provenance.items() if key not in SPREAD}
    dataset, called_from = plain.get("dataset"), _called_from(folder)
    if isinstance(dataset, dict) and isinstance(dataset.get("path"), str):
        # By its letters alone: the disk is not asked about a path that somebody wrote.
        plain["dataset"] = {**dataset, "path": os.path.normpath(called_from / dataset["path"])}
    try:
        check_plain(plain)
        config = fitted_config(plain)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    return StoredConfig(config, tuple(_notes(raw, plain)))


@dataclass(frozen=True)
class SettingsView:
    """The configuration of a run for tables and pages.

    Attributes:
        settings: its leaves by dotted key. References to keys of the file are followed; what else stands for a value,
            such as `${oc.env:NAME}`, is as it was written.
        following: keys that follow others: where the file says so, or where the tree does and nobody set them, since
            runs store what a key came to.
        chosen: the option taken in each config group.
        overridden: keys that the command line, or the sweep, set.
    """

    settings: Mapping[str, Any]
    following: frozenset[str]
    chosen: Mapping[str, str | None]
    overridden: frozenset[str]


def settings_view(folder: Path) -> SettingsView:
    """The configuration in a run's folder, nothing of it looked up, called or asked for.

    Raises:
        FileNotFoundError, InputError: as `reopened`.
    """
    file = folder / HYDRA / "config.yaml"
    raw, chosen = read_block(file), choices_of(folder / HYDRA / "hydra.yaml")
    try:
        settings = dict(leaves(followed(raw, lambda _, text: text)))
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    groups = {group: option for group, option in chosen.items() if not group.startswith("hydra/")}
    keys = (override.lstrip("+~").partition("=")[0].partition("@")[0] for override in _overrides(folder))
    overridden = frozenset(key for key in keys if key not in groups)
    written = dict(leaves(raw))
    following = {key for key, value in written.items() if refers(value)}
    following |= {
        key for key in written if key not in overridden and refers(written_default(tuple(key.split(".")), chosen))
    }
    return SettingsView(settings, frozenset(following), groups, overridden)


def _overrides(folder: Path) -> list[str]:
    file = folder / HYDRA / "overrides.yaml"
    overrides = read_yaml(file) or []
    if not isinstance(overrides, list):
        raise InputError(f"{file}: is no list")
    return [str(override) for override in overrides]


def leaves(block: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; a list is one value, and so is a mapping of anything but names."""
    for key, value in block.items():
        if isinstance(value, Mapping) and value and all(isinstance(name, str) for name in value):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _called_from(folder: Path) -> Path:
    """The folder in which `provfl run` was typed."""
    try:
        return Path(str(read_block(folder / HYDRA / "hydra.yaml")["hydra"]["runtime"]["cwd"]))
    except (KeyError, TypeError):
        raise InputError(f"{folder / HYDRA / 'hydra.yaml'}: does not say hydra.runtime.cwd") from None


def _notes(raw: Mapping[str, Any], plain: Mapping[str, Any]) -> Iterator[str]:
    """Keys whose value is not in the file, and what is taken for them."""
    taken = dict(leaves(plain))
    for key, text in leaves(followed(dict(raw), lambda _, text: text)):
        block, _, last = key.partition(".")
        if block in UNUSED or last in SPREAD:
            continue
        texts = text if isinstance(text, list) else [text]
        if any(refers(part) for part in texts):
            value = taken.get(key)
            yield f"{key} was {text}, which is not followed: taken as {'null' if value is None else value}"
