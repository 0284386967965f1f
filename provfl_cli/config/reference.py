"""All configuration keys as Markdown tables: what stands between the markers of `conf/README.md`.

Type and range come from the schema's dataclasses, defaults and meanings from the files of `conf/`, so that nothing is
said twice. `provfl ls --keys` prints it; `python -m provfl_cli.config.reference` writes it into `conf/README.md`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from ..checks import ranges
from ..provenance.settings import Provenance
from .builtin import CALLED
from .fields import hint_of, shown, wording
from .lora import Lora
from .retrain import Retrain
from .schema import Config, Dataset, Engine, Evaluation, Experiment, Federation, Model, Store
from .targets import imported_part
from .tree import conf_dir, default_options, option_file, options
from .warm_start import WarmStart

BEGIN, END = "<!-- keys: made by provfl ls --keys -->", "<!-- end of keys -->"
BLOCKS = {  # plain ones, of `config.yaml`
    "federation": Federation,
    "lora": Lora,
    "evaluation": Evaluation,
    "retrain": Retrain,
    "warm_start": WarmStart,
    "store": Store,
}
SHARED = {"dataset": Dataset, "model": Model, "engine": Engine, "provenance": Provenance}  # one dataclass a group
OWN = ("partition", "injection", "fusion", "privacy", "attribution", "tracker")  # a dataclass for each option
HEAD = ("key", "accepted", "default", "meaning")
FAR_RIGHT = 12  # columns: a comment on a line of its own goes on with the one above if it stands beyond


@dataclass(frozen=True)
class Entry:
    """One key of a file in `conf/`: its path in the file, its value as it is written, and its comment."""

    path: tuple[str, ...]
    value: Any
    written: str
    comment: str


@dataclass(frozen=True)
class Key:
    """One row of a table: the options that have it, and what is said of it."""

    options: tuple[str, ...]
    name: str
    accepted: str
    default: str
    meaning: str


def entries(file: Path) -> list[Entry]:
    """All keys of a YAML file, blocks before what is in them."""
    text = file.read_text(encoding="utf-8")
    node = yaml.compose(text, yaml.SafeLoader)
    return [] if node is None else list(_entries(node, text.splitlines(), ()))


def keys(group: str) -> list[Key]:
    """The rows of a group or block, in the order in which the files have them."""
    if group in BLOCKS:
        return _of_block(group, BLOCKS[group])
    if group in SHARED:
        return _of_shared(group, SHARED[group])
    return _of_own(group) if group in OWN else _of_dataclass(group, Experiment)


def reference() -> str:
    """Every group's and block's table, under a heading each."""
    parts = [_section("", "Top-level keys", _scalars())]
    parts += [_section(name, f"`{name}`", keys(name)) for name in (*BLOCKS, *SHARED, *OWN, "experiment")]
    return "\n\n".join(parts)


def with_reference(page: str) -> str:
    """A page with the text between its two markers made anew; ValueError where they are missing."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{reference()}\n\n{END}{after}"


def _entries(node: Any, lines: list[str], above: tuple[str, ...]) -> Iterator[Entry]:
    for key, value in node.value:
        path, mark = (*above, key.value), value.end_mark
        inside = isinstance(value, yaml.MappingNode) and not value.flow_style
        if inside:
            written, start = "", key.end_mark.column + 1
        else:
            written, start = lines[mark.line][value.start_mark.column : mark.column], mark.column
        yield Entry(path, yaml.SafeLoader("").construct_object(value, deep=True), written, _comment(lines, key, start))
        if inside:
            yield from _entries(value, lines, path)


def _comment(lines: list[str], key: Any, start: int) -> str:
    """What is said behind a key, the lines below included where the comment goes on there."""
    number = key.start_mark.line
    said = lines[number][start:].strip()
    if not said.startswith("#"):
        return ""
    words = [said]
    for line in lines[number + 1 :]:
        if not line.strip().startswith("#") or len(line) - len(line.lstrip()) < FAR_RIGHT:
            break
        words.append(line.strip())
    return " ".join(word.lstrip("# ").strip() for word in words)


def _scalars() -> list[Key]:
    scalars = [entry for entry in entries(conf_dir() / "config.yaml") if len(entry.path) == 1 and entry.written]
    return [_row((), entry.path[0], entry, Config, entry.comment) for entry in scalars if entry.path != ("defaults",)]


def _of_block(group: str, kind: type) -> list[Key]:
    inside = [entry for entry in entries(conf_dir() / "config.yaml") if entry.path[:1] == (group,) and entry.path[1:]]
    return [_row((), ".".join(entry.path[1:]), entry, kind, entry.comment) for entry in inside]


def _of_shared(group: str, kind: type) -> list[Key]:
    """Keys of a group whose options fill the same dataclass; default is what the group's default option says."""
    default = default_options()[group]
    order = [name for name in (default, *options(group)) if name is not None]
    files = {name: _own_entries(group, name) for name in dict.fromkeys(order)}
    names = dict.fromkeys(name for keys in files.values() for name in keys)
    rows = []
    for name in names:
        having = {option: keys[name] for option, keys in files.items() if name in keys}
        meaning = _said(files.values(), name) or _attribute(kind, name)
        taken = having.get(order[0])
        everywhere = len(having) == len(files) or name in {field.name for field in fields(kind)}
        row = _row(() if everywhere else tuple(having), name, taken or next(iter(having.values())), kind, meaning)
        rows.append(row if taken else _replaced_default(row, kind, name))
    return rows


def _of_own(group: str) -> list[Key]:
    """Keys of a group whose options have a dataclass each; the same row of several options is one."""
    files = {name: _own_entries(group, name) for name in options(group)}
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for option, keys in files.items():
        kind = imported_part(str(keys[CALLED].value), group) if CALLED in keys else None
        for name, entry in keys.items():
            if name != CALLED:
                same = [other for other in files.values() if _target(other) == _target(keys)]
                meaning = entry.comment or _said(same, name) or _attribute(kind, name) or _said(files.values(), name)
                row = _row((), name, entry, kind, meaning)
                rows.setdefault((row.name, row.accepted, row.default, row.meaning), []).append(option)
    return [Key(tuple(having), *row) for row, having in rows.items()]


def _of_dataclass(group: str, kind: type) -> list[Key]:
    rows = []
    for field in fields(kind):
        row = Key((), field.name, _accepted(kind, field.name, None), "", _attribute(kind, field.name))
        rows.append(_replaced_default(row, kind, field.name))
    return rows


def _own_entries(group: str, option: str) -> dict[str, Entry]:
    """The keys of an option by their name below the group; what it sets elsewhere left out."""
    file = option_file(group, option)
    inside = entries(file)
    if "# @package _global_" in file.read_text(encoding="utf-8"):
        inside = [Entry(entry.path[1:], *_rest(entry)) for entry in inside if entry.path[0] == group and entry.path[1:]]
    names = {".".join(entry.path): entry for entry in inside}
    return {name: entry for name, entry in names.items() if name != CALLED or group in OWN}


def _rest(entry: Entry) -> tuple[Any, str, str]:
    return entry.value, entry.written, entry.comment


def _target(option: Mapping[str, Entry]) -> Any:
    return option[CALLED].value if CALLED in option else None


def _said(files: Iterable[Mapping[str, Entry]], name: str) -> str:
    """The first comment on a key in several files."""
    return next((keys[name].comment for keys in files if name in keys and keys[name].comment), "")


def _row(having: tuple[str, ...], name: str, entry: Entry, kind: type | None, meaning: str) -> Key:
    default = "required" if entry.written == "???" else entry.written.strip("'\"") or "below"
    return Key(having, name, _accepted(kind, name, entry.value), default, meaning)


def _replaced_default(row: Key, kind: type, name: str) -> Key:
    """The row with the dataclass's own default: that of an option that does not say the key."""
    field = {field.name: field for field in fields(kind)}.get(name)
    if field is None:
        return row
    made = field.default if field.default_factory is MISSING else field.default_factory()
    return Key(row.options, name, row.accepted, "required" if made is MISSING else shown(made), row.meaning)


def _accepted(kind: type | None, name: str, value: Any) -> str:
    """The type of a key in words, with the range of its numbers."""
    if kind is None or name not in {field.name for field in fields(kind)}:  # an option of a model's function
        return {bool: "true or false", int: "a number", float: "a number", str: "a text"}.get(type(value), "a mapping")
    hint, allowed = hint_of(kind, name), ranges(kind).get(name)
    words = "see its meaning" if hint is Any else wording(hint)
    if allowed is None:
        return words
    literal = any(get_origin(alternative) is Literal for alternative in get_args(hint))
    several = hint is Any or literal or "list" in words or "mapping" in words
    return f"{words}{'; numbers:' if several else ','} {allowed}"


def _attribute(kind: type | None, name: str) -> str:
    """What a dataclass's docstring says of a field under `Attributes:`."""
    text = "" if kind is None else kind.__doc__ or ""
    said = re.search(rf"^ +{name}: ((?:.+\n?)(?:^ {{12,}}.+\n?)*)", text, re.MULTILINE)
    return " ".join(said[1].split()).rstrip(".") if said else ""


def _section(group: str, title: str, rows: list[Key]) -> str:
    several = any(row.options for row in rows)
    head = (*(("options",) if several else ()), *HEAD)
    lines = [f"### {title}", "", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows:
        name = f"`{group}{'.METHOD' if group == 'attribution' else ''}.{row.name}`" if group else f"`{row.name}`"
        having = (", ".join(f"`{option}`" for option in row.options),) if several else ()
        cells = (*having, name, row.accepted, f"`{row.default}`" if row.default else "", row.meaning)
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace(" | ", "; ").replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    page = conf_dir() / "README.md"
    page.write_text(with_reference(page.read_text(encoding="utf-8")), encoding="utf-8")
