"""What of a configuration is written down: everything resolved, but for what the environment said.

Values of `oc.env` may be secrets (a password in the address of a tracking server). They stay `${oc.env:NAME}` in every
file, page, tracker and message; only the run itself knows them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

SHORTEST = 4  # characters: a shorter value is hidden where it stands alone, and left where it is part of a text

T = TypeVar("T")


@dataclass(frozen=True)
class EnvironmentValue:
    """A value of the environment: the dotted key that holds it, what it is, and how it is written."""

    key: str
    value: Any
    written: str


def resolved(cfg: DictConfig) -> tuple[dict[str, Any], tuple[EnvironmentValue, ...]]:
    """`cfg` without the `hydra` node as plain values to store, and what in it comes from the environment.

    Every interpolation is replaced by what it stands for, but one that leads to `oc.env`, however indirectly.

    Raises:
        OmegaConfBaseException: an interpolation that leads nowhere.
    """
    taken: list[EnvironmentValue] = []
    asked: list[str] = []

    def recording(name: str, *default: Any) -> Any:
        asked.append(name)
        return oc.env(name, *default)

    def plain(node: Any, path: tuple[str, ...]) -> Any:
        if isinstance(node, DictConfig):
            return {key: child(node, key, (*path, str(key))) for key in node if path or key != "hydra"}
        if isinstance(node, ListConfig):
            return [child(node, number, (*path, str(number))) for number in range(len(node))]
        return node

    def child(parent: Container, key: Any, path: tuple[str, ...]) -> Any:
        if OmegaConf.is_missing(parent, key):
            return "???"
        if not OmegaConf.is_interpolation(parent, key):
            return plain(parent[key], path)
        del asked[:]
        value = parent[key]
        if isinstance(value, Container):
            value = OmegaConf.to_container(value, resolve=True)
        if not asked:
            return value
        raw: Any = OmegaConf.to_container(parent, resolve=False)
        if any(name in os.environ for name in asked):
            taken.append(EnvironmentValue(".".join(path), value, str(raw[key])))
        return raw[key]

    OmegaConf.register_new_resolver("oc.env", recording, replace=True)
    try:
        return plain(cfg, ()), tuple(taken)
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def environment(cfg: DictConfig) -> tuple[EnvironmentValue, ...]:
    """What in `cfg` comes from the environment; () where it cannot be resolved."""
    try:
        return resolved(cfg)[1]
    except OmegaConfBaseException:
        return ()


def store(cfg: DictConfig, file: Path) -> None:
    """Replace the configuration that Hydra has written to `file`, as composed, by what it stands for."""
    text = yaml.dump(
        resolved(cfg)[0], Dumper=get_omega_conf_dumper(), default_flow_style=False, allow_unicode=True, sort_keys=False
    )
    temporary = file.with_name(f".{file.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def anchored(taken: Sequence[EnvironmentValue], plain: Mapping[str, Any]) -> tuple[EnvironmentValue, ...]:
    """`taken`, and beside it what became of relative paths in `plain`, the longest first."""
    more = list(taken)
    for variable in taken:
        value: Any = plain
        for word in variable.key.split("."):
            value = value.get(word) if isinstance(value, Mapping) else None
        if isinstance(value, str) and value != variable.value:
            more.append(EnvironmentValue(variable.key, value, variable.written))
    return tuple(sorted(more, key=lambda variable: -len(str(variable.value))))


def masked(value: T, taken: Sequence[EnvironmentValue], *blocks: str) -> T:
    """`value` with texts of the environment as they were written, in the texts of lists and mappings too.

    Args:
        value: plain values.
        taken: from the environment.
        blocks: only what the keys of these blocks hold; none: of all.
    """
    for variable in taken:
        text = str(variable.value)
        if text and (not blocks or variable.key.partition(".")[0] in blocks):
            value = _replaced(value, text, variable.written)
    return value


def _replaced(value: Any, text: str, written: str) -> Any:
    if isinstance(value, str):
        return value.replace(text, written) if len(text) >= SHORTEST else (written if value == text else value)
    if isinstance(value, Mapping):
        return {key: _replaced(entry, text, written) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_replaced(entry, text, written) for entry in value)
    return value


@contextmanager
def hiding(taken: Sequence[EnvironmentValue], *kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds, which hold one text, leave the block without what the environment said."""
    try:
        yield
    except kinds as error:
        text = masked(str(error), taken)
        if text == str(error):
            raise
        raise type(error)(text) from None
