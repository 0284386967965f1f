"""A recorded federation: rounds that something else than `provfl run` trained, in the format of stored rounds.

    FOLDER/rounds/0001/…     as `rounds.py` writes them
           recorded.json     where they come from, what the clients are called, how many examples each has

Each round names its clients itself, so that a process that is killed before it has written `recorded.json` loses none.
There is no configuration and no data: whoever traces such a round brings the model and the inputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..bounded import read_end, read_json
from ..errors import InputError, RunError
from ..harmless import harmless_json
from .disk import replacing
from .rounds import read_round, stored_rounds
from .sealed import check_seal, sealed
from .stored_values import (
    LARGEST_COUNT,
    block,
    client_number,
    different,
    read_format,
    text,
    texts,
    value_of,
    whole,
)

FORMAT = 2
READABLE = (1, FORMAT)  # of 1 there is no checksum
RECORDED = "recorded.json"
JOURNAL = "flower.jsonl"  # a line a round, of those that could not be recorded as well
JOURNALS = (JOURNAL, "nvflare.jsonl")
JOURNAL_BYTES = 1_000_000  # of its end, to find the last line in: a round of thousands of clients takes a tenth
LONGEST = 300  # characters of a reason that are repeated


@dataclass(frozen=True)
class RecordedFederation:
    """What there is to know of a recorded federation beside its rounds.

    Attributes:
        source: what made it, such as `import`, `flower` or `nvflare`.
        clients: what each client is called, by the number that it has in the rounds.
        examples: training examples of each, by number: those of the latest round in which it took part.
        labels: the names of the classes, in the order of the model's outputs; (): not known.
        fusion: the option of `conf/fusion`, and settings of it as KEY=VALUE, by which a round can be fused again from
            its stored server state, to see what it would be without some clients; (): not known.
    """

    source: str
    clients: Mapping[int, str]
    examples: Mapping[int, int]
    labels: tuple[str, ...] = ()
    fusion: tuple[str, ...] = ()


def write_recorded(folder: Path, recorded: RecordedFederation) -> None:
    """Write `recorded.json`, whole or not at all; the folder is made where it is missing.

    Raises:
        RunError: the folder cannot be written to, or a number or name is none that a recording may have.
    """
    content = {
        "format": FORMAT,
        "source": recorded.source,
        "clients": {str(number): name for number, name in sorted(recorded.clients.items())},
        "examples": {str(number): count for number, count in sorted(recorded.examples.items())},
        "labels": list(recorded.labels),
        "fusion": list(recorded.fusion),
    }
    written = sealed(content)
    try:
        _recorded(written)
    except ValueError as error:
        raise RunError(f"{folder / RECORDED} cannot be written: {error}") from error
    with replacing(folder / RECORDED) as beside:
        lines = harmless_json(json.dumps(written, indent=1, ensure_ascii=False)) + "\n"
        beside.write_text(lines, encoding="utf-8")


def read_recorded(folder: Path) -> RecordedFederation | None:
    """What `write_recorded` wrote; None where the folder holds no recorded federation.

    Raises:
        RunError: the file is damaged.
    """
    path = folder / RECORDED
    try:
        content = read_json(path)
        read_format(content, READABLE)
        check_seal(content, since=FORMAT)
        return _recorded(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error}): record the federation again") from error


def _recorded(content: Mapping[str, Any]) -> RecordedFederation:
    """What is written in `recorded.json`; ValueError where a field can be none of a recorded federation."""
    named, counted = block(value_of(content, "clients"), "clients"), block(value_of(content, "examples"), "examples")
    clients = {client_number(key, "a name in clients"): text(name, f"clients.{key}") for key, name in named.items()}
    different(tuple(clients.values()), "clients")
    return RecordedFederation(
        source=text(value_of(content, "source"), "source"),
        clients=clients,
        examples={
            client_number(key, "a name in examples"): whole(count, f"examples.{key}", 0, LARGEST_COUNT)
            for key, count in counted.items()
        },
        labels=texts(value_of(content, "labels"), "labels"),
        fusion=texts(value_of(content, "fusion"), "fusion"),
    )


def read_whole(folder: Path, every: bool = False) -> RecordedFederation | None:
    """`recorded.json`, and the clients that only the last round names, or with `every` any round: a process that was
    killed has not written them down any more. None where there is no recorded federation.

    Raises:
        RunError: a file is damaged, or a round calls a client otherwise.
    """
    rounds = folder / "rounds"
    recorded = read_recorded(folder)
    numbers = stored_rounds(rounds)
    federation = recorded or RecordedFederation("", {}, {})
    for number in numbers if every or recorded is None else numbers[-1:]:
        stored = read_round(rounds, number)
        if not stored.source:
            continue
        check_names(federation.clients, stored.clients, stored.names, stored.folder)
        federation = replace(
            federation,
            source=federation.source or stored.source,
            clients={**dict(zip(stored.clients, stored.names, strict=True)), **federation.clients},
            examples={**dict(zip(stored.clients, stored.examples, strict=True)), **federation.examples},
        )
    return federation if federation.source else None


def check_names(known: Mapping[int, str], clients: Sequence[int], names: Sequence[str], folder: Path) -> None:
    """Raise RunError where the round in `folder` calls its clients otherwise than they are known."""
    numbers = {name: client for client, name in known.items()}
    for client, name in zip(clients, names, strict=False):  # older rounds have no names
        if known.get(client, name) != name or numbers.get(name, client) != client:
            other = repr(known[client]) if client in known else f"client {numbers[name]}"
            raise RunError(
                f"{folder} calls client {client} {name!r}, {RECORDED} or another round {other}: they are not "
                "of one recording"
            )


def require_no_run(folder: Path, asked: str) -> None:
    """Raise InputError where a folder, named by `asked`, is that of a run: its rounds are in the training cache."""
    if (folder / "rounds").is_symlink() or (folder / ".hydra").exists():
        raise InputError(f"{asked}: {folder} is the folder of a run: give another, or a new one")


def is_recorded(folder: Path) -> bool:
    """Whether a folder is that of a recorded federation, not of a run; perhaps none of its rounds could be recorded."""
    rounds = folder / "rounds"
    if any((folder / name).is_file() for name in (RECORDED, *JOURNALS)):
        return True
    return not (rounds.is_symlink() or (folder / ".hydra").exists()) and any(rounds.glob("[0-9]*/round.json"))


def why_nothing(folder: Path) -> str:
    """Why no round of a federation has been recorded, as the last line of its journal says; "" where it is not known.

    The text is of whoever trained: see that it does nothing to a terminal.
    """
    try:
        number, reason = _why(_journal(folder)[-1])
    except (OSError, ValueError, KeyError, IndexError, RecursionError):
        return ""
    return f"round {number}: {reason}"


def missed_rounds(folder: Path) -> dict[int, str]:
    """Why rounds were not recorded, by number, as far as the end of the journal says; the texts as `why_nothing`'s."""
    missed = dict[int, str]()
    with suppress(OSError):
        for line in _journal(folder):
            with suppress(ValueError, KeyError, RecursionError):
                number, reason = _why(line)
                missed[number] = reason
    for number in stored_rounds(folder / "rounds"):
        missed.pop(number, None)
    return missed


def _journal(folder: Path) -> list[str]:
    """The last lines of the journal."""
    journal = next((name for name in JOURNALS if (folder / name).exists()), JOURNAL)
    return [line for line in read_end(folder / journal, JOURNAL_BYTES).split("\n") if line.strip()]


def _why(line: str) -> tuple[int, str]:
    """The number of the round that a line of the journal is on, and why it was not recorded."""
    entry = block(json.loads(line), "a line of the journal")
    return whole(entry["round"], "round"), " ".join(str(entry["reason"]).split())[:LONGEST]
