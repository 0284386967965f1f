"""`diagnosis.json` of a run folder: who is behind the predictions that were asked about, how sure, and what happens
without them. It is said here, and nothing is computed: `run/diagnosed.py` makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..bounded import read_json
from ..checks import excerpt
from .checksums import DIAGNOSIS
from .columns import LARGEST, LARGEST_COUNT
from .wrong import WrongContent, shown

FILE = DIAGNOSIS
FORMAT = 1


@dataclass(frozen=True)
class Suspect:
    """A client that stands out.

    Attributes:
        client: its number, counted from 0.
        name: what it is called, of an import; None: by its number.
        score: its robust z among the clients, in standard deviations, of the score in which it stands out most.
        reasons: which scores stand out, in words, the strongest first.
        inputs: of those asked about, how many it tops.
        corrected: of the mistakes asked about, how many are right after it is left out and the round fused again;
            None where that was not measured.
        broken: of the right predictions looked at beside, how many become wrong so; None where not measured.
        since: the first round (from 1) from which on it stands out; None where rounds are not kept.
        faulty: whether it was planted; None where nobody knows.
        changed: of those asked about, how many are predicted otherwise without it; None where that was not measured.
    """

    client: int
    name: str | None
    score: float
    reasons: tuple[str, ...]
    inputs: int
    corrected: int | None
    broken: int | None
    since: int | None
    faulty: bool | None
    changed: int | None = None


@dataclass(frozen=True)
class ClientScore:
    """What one score says of one client.

    Attributes:
        score: its name.
        client: the client's number.
        value: what was measured.
        z: how far that is from the other clients on the suspicious side, in robust standard deviations; None where
            there are too few clients to compare.
        threshold: from which z on a client stands out.
        round: in which round it was measured.
    """

    score: str
    client: int
    value: float
    z: float | None
    threshold: float
    round: int


@dataclass(frozen=True)
class Diagnosis:
    """Who is behind some predictions.

    Attributes:
        question: what was asked about, such as `131 mistakes`.
        inputs: how many predictions were traced.
        round: of which round.
        clients: how many clients were compared.
        suspects: those that stand out, the most suspect first; (): nobody does.
        accuracy_before: of the inputs looked at whose label is known; None where none is.
        accuracy_after: the same with all suspects left out together and the round fused again; None where not measured.
        corrected: mistakes asked about that become right so; broken: right predictions that become wrong.
        sentence: plain text, said first everywhere.
        scores: every score of every client.
        tops: by client, how many of the predictions asked about it tops: over all rounds where lineage is kept.
        changed: of those asked about, how many are predicted otherwise without all suspects; None where not measured.
        notes: what else has to be said, in sentences.
    """

    question: str
    inputs: int
    round: int
    clients: int
    suspects: tuple[Suspect, ...]
    accuracy_before: float | None
    accuracy_after: float | None
    corrected: int | None
    broken: int | None
    sentence: str
    scores: tuple[ClientScore, ...] = ()
    tops: Mapping[int, int] | None = None
    notes: tuple[str, ...] = ()
    changed: int | None = None


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The object of `diagnosis.json` and of `provfl diagnose --json`."""
    return {"format": FORMAT, "sentence": diagnosis.sentence} | asdict(diagnosis)


def write(folder: Path, diagnosis: Diagnosis) -> None:
    """Write `diagnosis.json` into a run folder, whole or not at all."""
    from .files import write_json

    write_json(folder / FILE, as_json(diagnosis))


def read(folder: Path) -> Diagnosis | None:
    """`diagnosis.json` of a run folder; None where there is none.

    Raises:
        WrongContent: it holds something else than a run writes.
        OSError, ValueError: it cannot be read.
    """
    path = folder / FILE
    return from_json(read_json(path)) if path.is_file() else None


def from_json(content: Mapping[str, Any]) -> Diagnosis:
    """What `as_json` made; WrongContent where something is missing or of another kind."""
    _check(content, WHOLE)
    for suspect in content["suspects"]:
        _check(suspect, SUSPECT)
    for score in content["scores"]:
        _check(score, SCORE)
    plain = {name: content[name] for name in WHOLE}
    tops = content["tops"]
    return Diagnosis(
        **plain
        | {
            "suspects": tuple(
                Suspect(**{name: each[name] for name in SUSPECT} | {"reasons": tuple(each["reasons"])})
                for each in content["suspects"]
            ),
            "scores": tuple(ClientScore(**{name: each[name] for name in SCORE}) for each in content["scores"]),
            "tops": None if tops is None else {int(client): count for client, count in tops.items()},
            "notes": tuple(content["notes"]),
        }
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _or_null(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _list(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _tops(value: Any) -> bool:
    return isinstance(value, dict) and all(
        key.isascii() and key.isdecimal() and len(key) <= 10 and int(key) <= LARGEST and _count(count)
        for key, count in value.items()
    )


_OBJECTS = _list(lambda value: isinstance(value, dict))
WHOLE: Mapping[str, Callable[[Any], bool]] = {
    "question": _text,
    "inputs": _count,
    "round": _count,
    "clients": _count,
    "suspects": _OBJECTS,
    "accuracy_before": _or_null(_number),
    "accuracy_after": _or_null(_number),
    "corrected": _or_null(_count),
    "broken": _or_null(_count),
    "sentence": _text,
    "scores": _OBJECTS,
    "tops": _or_null(_tops),
    "notes": _list(_text),
    "changed": _or_null(_count),
}
SUSPECT: Mapping[str, Callable[[Any], bool]] = {
    "client": _count,
    "name": _or_null(_text),
    "score": _number,
    "reasons": _list(_text),
    "inputs": _count,
    "corrected": _or_null(_count),
    "broken": _or_null(_count),
    "since": _or_null(_count),
    "faulty": _or_null(lambda value: isinstance(value, bool)),
    "changed": _or_null(_count),
}
SCORE: Mapping[str, Callable[[Any], bool]] = {
    "score": _text,
    "client": _count,
    "value": _or_null(_number),
    "z": _or_null(_number),
    "threshold": _number,
    "round": _count,
}


def _check(content: Mapping[str, Any], known: Mapping[str, Callable[[Any], bool]]) -> None:
    for name, fits in known.items():
        if name not in content:
            raise WrongContent(f"{name} is missing")
        if not fits(content[name]):
            raise WrongContent(f"{excerpt(name)} is {shown(content[name])}, which no run writes")
