"""What several runs say together: in how many somebody stands out, and whether it is who was planted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...results.folders import MissingRun
from .verdict import Verdict


@dataclass(frozen=True)
class Line:
    """One run: its place among those shown, its name, who stands out there, and in a sentence why."""

    at: int
    name: str
    who: str
    planted: str
    sentence: str


@dataclass(frozen=True)
class Swept:
    """The first screen of several runs; `lines` are those shown in full."""

    question: str
    sentences: tuple[str, ...]
    lines: tuple[Line, ...]


def swept(
    verdicts: Sequence[Verdict],
    names: Sequence[str],
    faulty: Sequence[Sequence[int]],
    total: int,
    absent: Sequence[MissingRun],
) -> Swept:
    """The verdicts of the runs shown in full, together.

    Args:
        verdicts, names, faulty: of each run shown, what its own first screen says, its name, and who was planted.
        total: how many runs there are.
        absent: those that have no result.
    """
    accused = [[one for one in each.clients if one.accused] for each in verdicts]
    known = [(who, planted) for who, planted, each in zip(accused, faulty, verdicts, strict=True) if each.diagnosed]
    with_fault = [(who, planted) for who, planted in known if planted]
    clean = [who for who, planted in known if not planted]
    sentences = []
    if known:
        found = sum(bool(who) for who, _ in known)
        sentences.append(f"Of {_runs(len(known))} diagnosed, a client stands out in {found}.")
    if with_fault:
        exact = sum({one.client for one in who} == set(planted) for who, planted in with_fault)
        sentences.append(
            f"A fault was planted in {_runs(len(with_fault))}: in {exact} exactly the planted clients stand out."
        )
    if clean:
        sentences.append(f"None was planted in {_runs(len(clean))}: in {sum(map(bool, clean))} somebody stands out.")
    if len(known) < len(verdicts):
        sentences.append(f"{_runs(len(verdicts) - len(known))} not diagnosed: votes alone, which accuse nobody.")
    if len(verdicts) < total:
        sentences.append(f"This is of the first {len(verdicts)} of {total} runs.")
    if absent:
        sentences.append(f"{_runs(len(absent))} {'have' if len(absent) > 1 else 'has'} no result.")
    lines = [
        Line(
            at,
            name,
            ", ".join(one.name for one in who) or ("nobody" if each.diagnosed else "not diagnosed"),
            ", ".join(map(str, planted)) or "–",
            each.sentence,
        )
        for at, (name, who, planted, each) in enumerate(zip(names, accused, faulty, verdicts, strict=True))
    ]
    return Swept(f"Who is behind the predictions of {total} runs?", tuple(sentences), tuple(lines))


def _runs(count: int) -> str:
    return f"{count:,} run{'s' * (count > 1)}"
