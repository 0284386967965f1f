"""What the built-in tree names and sets: what a stored configuration may call, and what it falls back to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..checks import excerpt
from ..errors import InputError
from .stored_yaml import ABSENT, Instead, followed, refers, scalar
from .tree import conf_dir, groups

CALLED = "_target_"
LOADS = ("dataset", "embedded")  # where the name of a function that loads a dataset stands
FORMER = {  # what the tree named before: folders of that time still open
    "tracker": (
        "provfl_cli.reporting.trackers.mlflow.MLflow",
        "provfl_cli.reporting.trackers.tensorboard.TensorBoard",
        "provfl_cli.reporting.trackers.wandb.WandB",
    )
}
_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env:[^,${}]*(?:,([^${}]*))?\}")
_OPTION = re.compile(r"\w+(/\w+)?")  # variants of an option lie in a folder of its name


@cache
def names() -> Mapping[str, frozenset[str]]:
    """The dotted names in the tree, by config group."""
    by_group: dict[str, set[str]] = {}
    for group in groups():
        for path in sorted((conf_dir() / group).glob("*.yaml")):
            block = _file(group, path)
            for key, name in named(block):
                by_group.setdefault(str(key[0]), set()).add(str(name))
    return {group: frozenset(dotted) for group, dotted in by_group.items()}


def named(block: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """All dotted names in a block, however deep, each with the keys where it stands."""
    entries = block.items() if isinstance(block, dict) else enumerate(block) if isinstance(block, list) else ()
    for key, value in entries:
        path = (*above, key)
        if (key == CALLED or path == LOADS) and value is not None:
            yield path, value
        else:
            yield from named(value, path)


def refuse_other_names(block: Mapping[str, Any], file: Path) -> None:
    """Raise InputError, before anything is imported, where a stored configuration names what the tree does not.

    A group may name what the tree names for that group, and nothing else.
    """
    for path, name in named(dict(block)):
        group = str(path[0])
        if not isinstance(name, str) or name not in (*names().get(group, ()), *FORMER.get(group, ())):
            shown = excerpt(f"{'.'.join(map(str, path))}={name}", 200)
            raise InputError(
                f"{file}: {shown}: not called, since it is no part of ProvFL and may do anything: --trust calls it, "
                "for a run of your own"
            )


def written_default(path: tuple[Any, ...], chosen: Mapping[str, str | None]) -> Any:
    """What the tree says at a key, as it is written there, where these options are chosen; `ABSENT` where nothing."""
    for block in _layers(tuple(sorted((group, option) for group, option in chosen.items() if option))):
        value: Any = block
        for key in path:
            value = value.get(key, ABSENT) if isinstance(value, dict) else ABSENT
        if value is not ABSENT:
            return value
    return ABSENT


def defaults(raw: dict[str, Any], chosen: Mapping[str, str | None]) -> Instead:
    """For `followed`: the tree's own value of a key; what that takes of the environment is its default there."""

    def default(path: tuple[Any, ...], text: str) -> Any:
        value = written_default(path, chosen)
        if not refers(value):
            return value
        taken = _ENVIRONMENT.fullmatch(value)
        if taken is not None:
            return scalar(taken[1] or "")
        plain = _ENVIRONMENT.sub(lambda part: part[1] or "", value)
        return followed({**raw, "": plain}, lambda *_: None)[""]

    return default


@cache
def _layers(chosen: tuple[tuple[str, str], ...]) -> tuple[dict[str, Any], ...]:
    """The files of the tree that a run was composed of, the one that wins first."""
    order = ("experiment", "task", "provenance", "fusion", "model")
    files = sorted(chosen, key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))
    late = [_option(group, option) for group, option in files if group in order]
    early = [_option(group, option) for group, option in files if group not in order]
    return (*late, _yaml(conf_dir() / "config.yaml"), *early)


def _option(group: str, option: str) -> dict[str, Any]:
    path = conf_dir() / group / f"{option}.yaml"
    known = group in groups() and _OPTION.fullmatch(option) is not None and path.is_file()
    return _file(group, path) if known else {}


def _file(group: str, path: Path) -> dict[str, Any]:
    """The block of an option's file from the top of a configuration on."""
    block = _yaml(path)
    if "@package _global_" in path.read_text(encoding="utf-8").partition("\n")[0]:
        return block
    return {group: {path.stem: block} if group == "attribution" else block}


@cache
def _yaml(path: Path) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return dict(yaml.load(path.read_text(encoding="utf-8"), Loader=loader) or {})
