"""What is said first of traced predictions where nobody has diagnosed them: who is on top, of how many, beside chance.

Votes alone: each input gives one vote to its top client. Nothing is fused again, so nobody is accused. Where clients
hold unlike labels, an innocent one that holds most of a label is on top of the mistakes that say it: in a run on MNIST
with one client that flips labels, stopped after 4 rounds, another had 175 of 373 votes. `provfl diagnose` measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..attribution.suspects import FEWEST, Score, robust_z
from ..imports import later
from .contributions import Trace

if TYPE_CHECKING:
    import numpy as np
else:
    np = later("numpy")

STANDS_OUT = 6.0  # robust standard deviations above the other clients
LEAST_VOTES = 5  # fewer inputs on top of are an accident
MOST_OF = 0.6  # of a client's inputs, from which their prediction is named


@dataclass(frozen=True)
class Voted:
    """A client and the inputs that it is on top of.

    Attributes:
        client: its number.
        inputs: how many, tied ones by their part.
        z: robust standard deviations above the other clients; None where there are fewer than five.
        says: the prediction that most of them share, None where they share none.
        says_inputs: how many do.
        corrected: of these inputs, how many are right without it; None where that was not measured, or none is wrong.
        changed: of these inputs, how many predict something else without it; None where that was not measured.
    """

    client: int
    inputs: float
    z: float | None
    says: int | None
    says_inputs: int
    corrected: int | None
    changed: int | None


@dataclass(frozen=True)
class SaidFirst:
    """What is said first of a trace.

    Attributes:
        kind: `wrong`: of its wrong predictions; `right`: all are right; `unknown`: nobody knows what is right.
        inputs: how many votes there are.
        clients: who could get one.
        chance: the votes of a client drawn at random.
        standing_out: who has far more of them than the others, most first.
        most: all that have one, most first.
    """

    kind: str
    inputs: int
    clients: int
    chance: float
    standing_out: tuple[Voted, ...]
    most: tuple[Voted, ...]


def said_first(trace: Trace, measured: Trace | None = None) -> SaidFirst | None:
    """Count the votes of a trace: of its wrong predictions where there are any, else of all.

    Args:
        trace: of one round by one method.
        measured: of the same round, a method that predicted again without each client (`Trace.without`).

    Returns:
        None where no input was traced, or there is nobody to choose among.
    """
    if not len(trace.inputs) or len(trace.clients) < 2:
        return None
    known = trace.labels >= 0
    wrong = known & (trace.labels != trace.predictions)
    chosen = wrong if wrong.any() else np.ones_like(known)
    kind = "wrong" if wrong.any() else "right" if known.all() else "unknown"
    best = trace.rank[chosen] == 1
    votes = (best / best.sum(axis=1, keepdims=True)).sum(axis=0)
    count, clients = int(chosen.sum()), len(trace.clients)
    chance = count / clients
    z: Sequence[float | None] = [None] * clients
    if clients >= FEWEST:
        spread = float(np.sqrt(chance * (1 - 1 / clients)))  # of votes that are cast at random
        z = robust_z(votes, Score("votes", "high", STANDS_OUT, max(spread, 1e-9))).tolist()
    order = sorted(range(clients), key=lambda at: (-votes[at], int(trace.clients[at])))
    voted = [_voted(trace, measured, chosen, at, float(votes[at]), z[at]) for at in order if votes[at] > 0]
    outside = tuple(one for one in voted if (one.z or 0.0) > STANDS_OUT and one.inputs >= LEAST_VOTES)
    return SaidFirst(kind, count, clients, chance, outside if count > 1 else (), tuple(voted))


def _voted(trace: Trace, measured: Trace | None, chosen: np.ndarray, at: int, votes: float, z: float | None) -> Voted:
    tops = chosen & (trace.rank[:, at] == 1)
    says, count = None, 0
    if tops.any():
        predicted, times = np.unique(trace.predictions[tops], return_counts=True)
        if times.max() >= MOST_OF * tops.sum() and times.max() > 1:
            says, count = int(predicted[times.argmax()]), int(times.max())
    corrected, changed = _without(trace, measured, tops, int(trace.clients[at]))
    return Voted(int(trace.clients[at]), votes, z, says, count, corrected, changed)


def _without(trace: Trace, measured: Trace | None, tops: np.ndarray, client: int) -> tuple[int | None, int | None]:
    """How many of these inputs become right, and how many change, without the client."""
    if measured is None or measured.without is None or not tops.any():
        return None, None
    row = {int(number): at for at, number in enumerate(measured.inputs)}
    column = {int(number): at for at, number in enumerate(measured.clients)}
    there = [at for at in np.flatnonzero(tops).tolist() if int(trace.inputs[at]) in row]
    if client not in column or len(there) < tops.sum():
        return None, None
    without = measured.without[[row[int(trace.inputs[at])] for at in there], column[client]]
    corrected = None
    if (trace.labels[tops] != trace.predictions[tops]).all() and (trace.labels[tops] >= 0).all():
        corrected = int((without == trace.labels[there]).sum())
    return corrected, int((without != trace.predictions[there]).sum())


def said(first: SaidFirst, client: Mapping[int, str], label: Mapping[int, str]) -> str:
    """The same in a sentence or two; clients and labels by their names where they have one."""

    def name(voted: Voted) -> str:
        return client.get(voted.client, str(voted.client))

    noun = "mistake" if first.kind == "wrong" else "prediction"
    whole = f"{first.inputs:,} {noun}{'s' * (first.inputs > 1)}"
    if first.inputs == 1:
        return f"Client {name(first.most[0])} pushed this {noun} most, of {first.clients:,} clients."
    beside = f"a client drawn at random: {count_of(first.chance)}"
    right = f"All {whole.replace(' ', ' traced ')} are right" if first.kind == "right" else ""
    if not first.standing_out:
        top = first.most[0]
        most = f"client {name(top)} is on top of most, {count_of(top.inputs)} of {first.inputs:,} ({beside})"
        if first.clients < FEWEST:
            begin = f"{right}. " if right else ""
            return f"{begin}Of {first.clients} clients, too few to say who is unlike the others, {most}."
        return f"{right}, and nobody stands out: {most}." if right else f"Nobody stands out behind {whole}: {most}."
    parts: list[str] = []
    for voted in first.standing_out:
        part = f"client {name(voted)} is on top of {count_of(voted.inputs)}"
        part += f" of {first.inputs if right else whole} ({beside})" if not parts else ""
        if voted.says is not None:
            part += f", {voted.says_inputs:,} of which say {label.get(voted.says, str(voted.says))}"
        if voted.corrected is not None:
            part += f"; without it {voted.corrected:,} of them are right"
        parts.append(part)
    text = "; ".join(parts)
    return f"{right}; {text}." if right else f"{text[0].upper()}{text[1:]}."


def count_of(number: float) -> str:
    """A number of inputs; ties make parts of one, of which a digit is said below ten."""
    return f"{number:,.0f}" if number == round(number) or number >= 10 else f"{number:.1f}"
