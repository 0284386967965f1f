"""The YAML files of a run folder read as data, whoever wrote them: bounded, nothing in them looked up or called."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError

MOST_BYTES = 400_000  # a hundred times what a run writes
DEEPEST = 40  # blocks within blocks
MOST_VALUES = 200_000  # values and characters that references may come to
LONGEST_CHAIN = 50  # references that lead to references
ABSENT = object()  # stands for a key that is left out

_KEY = r"\.*[\w@/-]+(?:\.[\w@/-]+|\[\w+\])*"
_PART = re.compile(r"\$\{([^${}]*)\}")
_REFERENCE = re.compile(rf"\s*({_KEY})\s*")
_SELECTED = re.compile(rf"\s*oc\.select:\s*({_KEY})\s*(?:,(.*))?", re.DOTALL)

Instead = Callable[[tuple[Any, ...], str], Any]
"""What to take for the text at a key that cannot be followed; `ABSENT`: leave the key out."""


def read_yaml(path: Path) -> Any:
    """The plain values of a YAML file, by the fast reader where there is one: sweeps have hundreds of them.

    Raises:
        FileNotFoundError: it is not there.
        InputError: it is no plain file, too large, too deep, holds aliases, or cannot be read; within a second.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a file")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise InputError(f"{path}: {size:,} bytes, what a run writes has at most {MOST_BYTES:,}: not read")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = path.read_text(encoding="utf-8")
        _check_events(path, text, loader)
        return yaml.load(text, Loader=loader)
    except (InputError, FileNotFoundError):
        raise
    except Exception as error:  # of the library, of Python's own types, of the disk
        reason = " ".join(str(error).split())[:200]  # harmless as all that an InputError says
        raise InputError(f"{path}: cannot be read as YAML ({reason})") from error


def _check_events(path: Path, text: str, loader: Any) -> None:
    """Raise InputError for what would grow when it is read: an alias repeats all that its anchor holds."""
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.AliasEvent):
            raise InputError(f"{path}: holds YAML aliases (*name), which no run writes: not read")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise InputError(f"{path}: more than {DEEPEST} blocks within blocks, which no run writes: not read")


def read_block(path: Path) -> dict[str, Any]:
    """A YAML file that holds a block of named keys.

    Raises:
        FileNotFoundError, InputError: as `read_yaml`, or it holds something else.
    """
    block = read_yaml(path)
    if not isinstance(block, dict) or not all(isinstance(key, str) for key in block):
        raise InputError(f"{path}: holds no block of keys")
    return block


def choices_of(path: Path) -> dict[str, str | None]:
    """The option taken in each config group, as Hydra left it in `hydra.yaml`.

    Raises:
        FileNotFoundError, InputError: as `read_block`, or it holds none.
    """
    try:
        chosen = read_block(path)["hydra"]["runtime"]["choices"]
        return {str(group): None if option is None else str(option) for group, option in chosen.items()}
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: does not say which options were chosen (hydra.runtime.choices)") from None


def refers(value: Any) -> bool:
    """Whether a value as it was written stands for another, `${…}`."""
    return isinstance(value, str) and "${" in value


def followed(raw: dict[str, Any], instead: Instead) -> dict[str, Any]:
    """A block with every reference to one of its own keys, `${a.b}`, replaced by what stands there.

    Nothing else that OmegaConf knows is done, such as `${oc.env:…}`: for the whole of such a text `instead` is asked.

    Raises:
        InputError: references that go on without end, or that come to far more than a run writes.
    """
    known: dict[tuple[Any, ...], tuple[Any, int]] = {}  # by key: the value, and how much it is
    under_way: list[tuple[Any, ...]] = []

    def at(path: tuple[Any, ...]) -> tuple[Any, int]:
        if path not in known:
            if path in under_way:
                raise LookupError(path)
            if len(under_way) > LONGEST_CHAIN + DEEPEST:
                raise InputError(f"more than {LONGEST_CHAIN} references that lead to references")
            under_way.append(path)
            try:
                known[path] = bounded(*made(_looked_up(raw, path), path))
            finally:
                under_way.pop()
        return known[path]

    def made(node: Any, path: tuple[Any, ...]) -> tuple[Any, int]:
        if isinstance(node, dict):
            parts = {key: at((*path, key)) for key in node}
            return {key: value for key, (value, _) in parts.items() if value is not ABSENT}, _total(parts.values())
        if isinstance(node, list):
            items = [at((*path, number)) for number in range(len(node))]
            return [None if value is ABSENT else value for value, _ in items], _total(items)
        if not refers(node):
            return node, len(node) + 1 if isinstance(node, str) else 1
        try:
            return resolved(node, path)
        except LookupError:  # no such key, or one that leads back here
            return other(path, node)

    def resolved(text: str, path: tuple[Any, ...]) -> tuple[Any, int]:
        whole = _PART.fullmatch(text)
        if whole is not None:
            return target(whole[1], path)
        pieces, position = list[str](), 0
        for part in _PART.finditer(text):
            value, _ = target(part[1], path)
            if isinstance(value, dict | list):
                raise LookupError(path)
            pieces += [text[position : part.start()], "null" if value is None else str(value)]
            position = part.end()
            bounded(None, sum(map(len, pieces)))
        joined = "".join((*pieces, text[position:]))
        if refers(joined):
            raise LookupError(path)
        return joined, len(joined) + 1

    def target(inside: str, path: tuple[Any, ...]) -> tuple[Any, int]:
        reference, selected = _REFERENCE.fullmatch(inside), _SELECTED.fullmatch(inside)
        named = (reference or selected or [None, None])[1]
        if named is None:
            raise LookupError(path)
        try:
            return at(_path(named, path))
        except LookupError:
            if selected is None or selected[2] is None:
                raise
            return scalar(selected[2]), len(selected[2])

    def other(path: tuple[Any, ...], text: str) -> tuple[Any, int]:
        value = instead(path, text)
        return value, len(text) + 1

    whole: dict[str, Any] = at(())[0]
    return whole


def bounded(value: Any, size: int) -> tuple[Any, int]:
    """`value` and its size, or InputError where that is more than a run ever writes."""
    if size > MOST_VALUES:
        raise InputError(f"references come to more than {MOST_VALUES:,} values, which no run writes")
    return value, size


def scalar(text: str) -> Any:
    """A single value as it is written in YAML; what is none stays a text."""
    words: dict[str, Any] = {"null": None, "~": None, "": None, "true": True, "false": False}
    stripped = text.strip()
    if stripped.lower() in words:
        return words[stripped.lower()]
    for kind in (int, float):
        try:
            return kind(stripped)
        except ValueError:
            continue
    return stripped.strip("'\"")


def _total(parts: Iterable[tuple[Any, int]]) -> int:
    return 1 + sum(size for _, size in parts)


def _path(named: str, here: tuple[Any, ...]) -> tuple[Any, ...]:
    """The keys that a reference names; dots in front of it count from where it stands."""
    words = tuple(re.findall(r"[\w@/-]+", named))
    dots = len(named) - len(named.lstrip("."))
    return (*here[: max(len(here) - dots, 0)], *words) if dots else words


def _looked_up(raw: Any, path: tuple[Any, ...]) -> Any:
    """What stands at a path of keys; LookupError where there is nothing."""
    for key in path:
        if isinstance(raw, dict):
            number = int(key) if isinstance(key, str) and key.isdecimal() and len(key) < 10 else key
            raw = raw[key] if key in raw else raw[number]
        elif isinstance(raw, list) and str(key).isdecimal() and len(str(key)) < 10:
            raw = raw[int(key)]
        else:
            raise LookupError(path)
    return raw
