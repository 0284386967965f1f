"""The first screen: the question, who it is, how sure that is, and what to do now; everything else is evidence."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ...evaluation.contributions import Trace
from ...evaluation.said_first import SaidFirst, Voted, count_of, said, said_first
from ...results.diagnosis import Diagnosis, Suspect
from ...results.run import RunContents

SHOWN = 6  # clients that have a card
LEARNT = 0.1  # of what there is to learn beyond guessing
KNOWN = (  # figure, its chance, and what it says of tracing in this run: {2} is how many mistakes a fault explains
    (
        "fault_accuracy", "fault_chance",
        "The planted client is on top of {0:.0%} of the {2}mistakes that its fault explains (chance {1:.0%}).",
    ),
    (
        "owner_top1", "owner_top1_chance",
        "Who taught what was said is on top of {0:.0%} of such responses (chance {1:.0%}).",
    ),
    (
        "majority_accuracy", "majority_chance",
        "The client with most examples of the label is on top of {0:.0%} of the inputs (chance {1:.0%}).",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class NamedClient:
    """A client of the first screen.

    Attributes:
        client: its number.
        name: what it is called.
        planted: whether the fault was planted there; None: nobody knows.
        accused: whether a diagnosis names it.
        of: "97 of 131 mistakes"; None where no input was counted.
        bar: parts of a bar from 0 to 1, its inputs and those of a client drawn at random.
        chance: "chance 13.1"
        lines: what else there is to say, one thing each.
    """

    client: int
    name: str
    planted: bool | None
    accused: bool
    of: str | None
    bar: tuple[float, float] | None
    chance: str | None
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What the first screen says; `sure` are lines, `now` pairs of what is done and the command that does it."""

    question: str
    sentence: str
    clients: tuple[NamedClient, ...]
    sure: tuple[str, ...]
    now: tuple[tuple[str, str], ...]
    diagnosed: bool = False


def verdict(opened: RunContents) -> Verdict:
    """Of a diagnosed run what was found there; of others what a count of votes says."""
    if opened.diagnosis is not None:
        return _diagnosed(opened, opened.diagnosis)
    trace, measured = first_traces(opened)
    first = None if trace is None else said_first(trace, measured)
    if trace is None or first is None:
        return Verdict("Who is responsible?", "No prediction was traced: nobody can be named.", (), (), ())
    return _voted(opened, trace, first)


def first_traces(opened: RunContents) -> tuple[Trace | None, Trace | None]:
    """The run's own trace of the last round, and what was measured there without each client, if anything."""
    here = [(key, trace) for key, trace in opened.traces if key[3] == opened.last_round]
    own = next((trace for key, trace in here if key[1] == "round"), None)
    return own, next((trace for _, trace in here if trace.without is not None), None)


def _diagnosed(opened: RunContents, found: Diagnosis) -> Verdict:
    suspects = [_suspect(opened, found, one) for one in found.suspects[:SHOWN]]
    tops = sorted((found.tops or {}).items(), key=lambda pair: (-pair[1], pair[0]))
    others = () if suspects else [_not_accused(opened, found, *pair) for pair in tops[:3] if pair[1]]
    sure = []
    if found.accuracy_before is not None and found.accuracy_after is not None:
        without = "them" if len(found.suspects) > 1 else "it"
        sure.append(
            f"Measured by fusing the round again without {without}: accuracy {found.accuracy_before:.3f} → "
            f"{found.accuracy_after:.3f}."
        )
    elif found.suspects:
        sure.append("Not measured: the round was not fused again without them.")
    else:
        sure.append(f"Each of the {found.clients:,} clients was compared with the others by every score of suspicion.")
    now = []
    if found.suspects:
        numbers = ",".join(str(one.client) for one in found.suspects)
        now.append(("Take it out of the model", f"provfl repair {_place(opened)} --without {numbers}"))
    now += _ask(opened)
    named = (*suspects, *others)
    return Verdict(
        f"Who is behind {found.question}?",
        found.sentence,
        named,
        (*sure, *(note[:1].upper() + note[1:] for note in found.notes)),
        tuple(now),
        diagnosed=True,
    )


def _not_accused(opened: RunContents, found: Diagnosis, client: int, inputs: int) -> NamedClient:
    chance = found.inputs / max(found.clients, 1)
    return NamedClient(
        client=client,
        name=opened.client(client),
        planted=client in opened.faulty if opened.faulty else None,
        accused=False,
        of=f"on top of {inputs:,} of {found.inputs:,}",
        bar=_bar(inputs, chance, found.inputs),
        chance=f"chance {count_of(chance)}",
        lines=(),
    )


def _suspect(opened: RunContents, found: Diagnosis, one: Suspect) -> NamedClient:
    lines = [reason for reason in one.reasons if not reason.startswith("behind ")]  # which stands above
    if one.corrected is not None:
        lines.append(f"without it {one.corrected:,} of {found.inputs:,} are right" + (
            f", and {one.broken:,} right ones become wrong" if one.broken else ", and no right one becomes wrong"
            if one.broken == 0 else ""))  # fmt: skip
    if one.since is not None:
        lines.append(f"stands out since round {one.since}")
    lines.append(f"{one.score:.1f} standard deviations from the other clients")
    chance = found.inputs / max(found.clients, 1)
    return NamedClient(
        client=one.client,
        name=one.name or opened.client(one.client),
        planted=one.faulty,
        accused=True,
        of=f"on top of {one.inputs:,} of {found.inputs:,}",
        bar=_bar(one.inputs, chance, found.inputs),
        chance=f"chance {count_of(chance)}",
        lines=tuple(lines),
    )


def _voted(opened: RunContents, trace: Trace, first: SaidFirst) -> Verdict:
    names = {int(client): opened.client(int(client)) for client in trace.clients}
    labels = dict(enumerate(opened.labels))
    many = f"{first.inputs:,} {'mistake' if first.kind == 'wrong' else 'prediction'}{'s' * (first.inputs > 1)}"
    shown = list(first.standing_out or first.most[:3])[:SHOWN]
    shown += [voted for voted in first.most if voted.client in opened.faulty and voted not in shown][:SHOWN]
    sure = []
    if first.kind == "right":
        sure.append("Nothing that was traced went wrong, so nobody is to blame; these are who carries what.")
    else:
        sure.append(
            "So far this counts votes and accuses nobody: one that holds most examples of a label is on top of the "
            "mistakes that say it, too. "
            + (
                "What is right without it was measured: the round was fused again."
                if any(voted.corrected is not None for voted in shown)
                else "Nothing was fused again without anybody."
            )
            if first.kind == "wrong"
            else "This counts votes: whether these predictions are right is not known, and nobody is accused."
        )
    sure += [*_learnt(opened), *_truth(opened)]
    now = []
    if first.kind == "wrong" and opened.explains == "classes" and not opened.spoken:
        now.append(("Measure it", f"provfl diagnose {_place(opened)}{_given(opened)}"))
    now += _ask(opened)
    return Verdict(
        question=f"Who is behind {many}?" if first.inputs > 1 else "Who is behind this prediction?",
        sentence=said(first, names, labels),
        clients=tuple(_one(opened, first, voted) for voted in shown),
        sure=tuple(sure),
        now=tuple(now),
    )


def _one(opened: RunContents, first: SaidFirst, voted: Voted) -> NamedClient:
    lines = []
    if voted.says is not None and first.kind == "wrong":
        held = _held(opened, voted.client, voted.says)
        lines.append(f"{voted.says_inputs:,} of them say {opened.label(voted.says)}{held}")
    if voted.corrected is not None:
        lines.append(f"without it {voted.corrected:,} of them are right, measured")
    elif voted.changed is not None:
        lines.append(f"without it {voted.changed:,} of them say something else, measured")
    if voted.z is not None:
        lines.append(f"{voted.z:.1f} standard deviations from the other clients")
    return NamedClient(
        client=voted.client,
        name=opened.client(voted.client),
        planted=voted.client in opened.faulty if opened.faulty else None,
        accused=False,
        of=f"on top of {count_of(voted.inputs)} of {first.inputs:,}",
        bar=_bar(voted.inputs, first.chance, first.inputs),
        chance=f"chance {count_of(first.chance)}",
        lines=tuple(lines),
    )


def _held(opened: RunContents, client: int, label: int) -> str:
    """How much of the label's training examples the client holds, where that explains why it is on top."""
    if opened.counts is None or client not in opened.counts:
        return ""
    whole = sum(int(row[label]) for row in opened.counts.values())
    share = int(opened.counts[client][label]) / whole if whole else 0.0
    return f"; it holds {share:.0%} of the training examples labelled so" if share > 1.5 / len(opened.counts) else ""


def _truth(opened: RunContents) -> Sequence[str]:
    """How often such a trace names the right client in this very run, where that is known."""
    figures = opened.run.figures
    for key, chance, words in KNOWN:
        value, beside = figures.get(key), figures.get(chance)
        if isinstance(value, float | int) and isinstance(beside, float | int) and value == value:
            explained = figures.get("fault_inputs")
            return [words.format(value, beside, f"{explained:,} " if isinstance(explained, int) else "")]
    return []


def _learnt(opened: RunContents) -> Sequence[str]:
    """That the model has learnt next to nothing, where it has."""
    accuracy, guess = opened.run.figures.get("global_accuracy"), 1 / max(len(opened.labels), 1)
    if (
        opened.recorded is not None  # the inputs given need not be a test set
        or opened.explains != "classes"
        or not isinstance(accuracy, float)
        or accuracy >= guess + LEARNT * (1 - guess)
        or opened.spoken
    ):
        return []
    return [
        f"The model has learnt next to nothing: accuracy {accuracy:.1%}, guessing gives {guess:.1%}. "
        "Its mistakes are nobody's in particular."
    ]


def _ask(opened: RunContents) -> list[tuple[str, str]]:
    """How to ask about one prediction."""
    trace, _ = first_traces(opened)
    if trace is None or not len(trace.inputs):
        return []
    if opened.recorded is not None:
        number = int(trace.inputs[0])
        return [("Ask about one input", f"provfl trace {_place(opened)}{_given(opened)} --input {number} --verify")]
    if opened.spoken:
        return [("Ask about one prompt", f"provfl trace {_place(opened)} --prompt TEXT --verify")]
    return [("Ask about one prediction", f"provfl trace {_place(opened)} --input {int(trace.inputs[0])} --verify")]


def _given(opened: RunContents) -> str:
    """What is given with a recorded federation."""
    if opened.recorded is None:
        return ""
    return f" --model {shlex.quote(dict(opened.recorded).get('model', 'MODEL'))} --data DATA"


def _place(opened: RunContents) -> str:
    near, whole = os.path.relpath(opened.run.folder), str(opened.run.folder.absolute())
    return shlex.quote(whole if near.startswith("..") else near)


def _bar(inputs: float, chance: float, whole: int) -> tuple[float, float] | None:
    return (min(inputs / whole, 1.0), min(chance / whole, 1.0)) if whole else None
