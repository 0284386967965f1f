"""Who is behind some predictions: traced, compared with the federation's spread, left out and the round fused again.

Of a run that has just ended and of a federation that was opened again alike: what is asked about and what it is
compared with come as `Case`s of the last round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..attribution.counterfactual import logits
from ..attribution.evidence import UNKNOWN, Pushed, of_clients, only, pushed
from ..attribution.method import Case
from ..attribution.suspects import FEWEST
from ..errors import RunError
from ..evaluation.verdict import CHARGES, Judged, Measured, StandsOut, judged, standing_out
from ..provenance.lineage import lineage_round
from ..results.diagnosis import ClientScore, Diagnosis, Suspect
from ..seeds import derived_seed
from ..store.rounds import Round
from .sentence import counted, sentence_of

SCORED = 300  # inputs over which clients are compared
REASONS = 4  # scores that are told of a client, the strongest
ENOUGH = 20  # mistakes, of which fewer do not tell who is on top of most


@dataclass(frozen=True)
class Question:
    """What is asked about.

    Attributes:
        noun: what one is called, such as `mistake`; its plural has an s.
        more: what follows, such as ` of label 7`.
        mistakes: whether all of them are known to be wrong.
    """

    noun: str
    more: str = ""
    mistakes: bool = False

    def counted(self, count: int) -> str:
        """So many of them, in words."""
        return f"{counted(count, self.noun)}{self.more}"

    def called(self, count: int) -> str:
        """All of them, in words."""
        return f"the {self.noun}{self.more}" if count == 1 else self.counted(count)


@dataclass(frozen=True)
class Material:
    """What a diagnosis is made of.

    Attributes:
        asked: the predictions asked about, in the last round; there may be none.
        beside: many inputs of the server with what that round's model predicts of them; labels may be unknown.
        question: what was asked.
        load: puts a round's tensors into the model, and what of it is private.
        earlier: rounds before, ascending, to look at as well; they are opened one at a time.
        names: of clients that have one.
        faulty: clients that were planted; None: nobody knows.
        lineage: whether to look at what clients sent over all rounds, where the round has it.
        notes: what else has to be said.
    """

    asked: Case
    beside: Case
    question: Question
    load: Callable[[Round], object]
    earlier: Sequence[int] = ()
    open_round: Callable[[int], Round] | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    faulty: tuple[int, ...] | None = None
    lineage: bool = True
    notes: tuple[str, ...] = ()


def diagnose(material: Material) -> Diagnosis:
    """Answer; see `Diagnosis`.

    Raises:
        RunError: a stored file is damaged, or conservation fails.
    """
    case, asked, beside = material.beside, material.asked, material.beside
    stored, count = case.stored, len(asked.numbers)
    case.model.to(case.device)
    scored = _some(beside, SCORED)
    rounds = dict[int, list[Judged]]()
    for number in material.earlier:
        assert material.open_round is not None
        opened = material.open_round(number)
        material.load(opened)
        rounds[number] = judged(_of_round(replace(scored, stored=opened)))
    material.load(stored)
    measured = _of_round(scored)
    traces = list[Pushed]()
    if count:
        traces = [pushed(asked, beside)]
        if material.lineage and stored.lineage_rows is not None:
            traces.append(pushed(asked, beside, lineage_round(stored), "lineage"))
        for trace in traces:
            best = trace is traces[-1]  # who is on top, lineage tells better than the round
            measured += _of_trace(trace, stored.number, material.question.mistakes and best)
    rounds[stored.number] = judged(measured)
    found = standing_out(rounds)
    tops = traces[-1].tops if traces else {}
    material.load(stored)
    without = _Without(material)
    suspects = tuple(_suspect(material, each, tops, without, bool(material.earlier)) for each in found)
    there = tuple(suspect.client for suspect in suspects)
    together = without.of(there) if there else None
    clients = len({client for each in rounds[stored.number] for client in each.measured.clients})
    diagnosis = Diagnosis(
        question=material.question.counted(count),
        inputs=count,
        round=stored.number,
        clients=clients,
        suspects=suspects,
        accuracy_before=without.accuracy,
        accuracy_after=None if together is None else together.accuracy,
        corrected=None if together is None else together.corrected,
        broken=None if together is None else together.broken,
        changed=None if together is None else together.changed,
        sentence="",
        scores=tuple(_scores(rounds)),
        tops=tops,
        notes=(*material.notes, *_notes(material, clients, without)),
    )
    return replace(diagnosis, sentence=sentence_of(diagnosis, material.question.noun, clients >= FEWEST))


def _some(case: Case, most: int) -> Case:
    """At most so many of the predictions, drawn from the seed."""
    if len(case.numbers) <= most:
        return replace(case, unlabelled=None)
    drawn = np.random.default_rng(derived_seed(case.seed, "diagnosis")).permutation(len(case.numbers))[:most]
    return only(case, np.sort(drawn))


def _of_round(case: Case) -> list[Measured]:
    clients = tuple(case.stored.clients)
    return [Measured(name, case.stored.number, clients, values) for name, values in of_clients(case).items()]


def _of_trace(trace: Pushed, number: int, mistakes: bool) -> Iterator[Measured]:
    """The scores of who pushed predictions; over clients that fusion used."""
    used = np.flatnonzero(trace.candidates)
    clients = tuple(trace.clients[at] for at in used)
    before = "" if trace.scope == "round" else f"{trace.scope}_"
    mean = trace.values.mean(axis=0)
    yield Measured(f"{before}push", number, clients, mean[used], trace.usual[used])
    if mistakes and len(trace.values) >= ENOUGH:
        shares = np.array([trace.tops[client] for client in clients]) / len(trace.values)
        yield Measured(f"{before}top", number, clients, shares)


@dataclass(frozen=True)
class _Outcome:
    """What is measured without some clients; None where it cannot be."""

    corrected: int | None
    broken: int | None
    changed: int | None
    accuracy: float | None


class _Without:
    """The last round fused again without some clients, and what that changes; each set is computed once."""

    def __init__(self, material: Material) -> None:
        asked, beside = material.asked, material.beside
        self.case = beside
        self.asked = asked
        self.kind = "refuse" if beside.fusion is not None else "withhold"
        self.known = beside.labels != UNKNOWN
        self.right = beside.classes == beside.labels
        self.wrong = (asked.labels != UNKNOWN) & (asked.labels != asked.classes)
        self.accuracy = float(self.right[self.known].mean()) if self.known.any() else None
        self.failed = ""
        self.found = dict[tuple[int, ...], _Outcome]()

    def of(self, clients: Sequence[int]) -> _Outcome:
        """Without these clients, of whom those who took no part in the round change nothing."""
        positions = tuple(sorted(self.case.stored.clients.index(c) for c in clients if c in self.case.stored.clients))
        if positions not in self.found:
            self.found[positions] = self._measured(positions)
        return self.found[positions]

    def _measured(self, positions: tuple[int, ...]) -> _Outcome:
        try:
            if len(positions) == len(self.case.stored.clients):
                raise RunError("nobody is left")
            beside = self._predicted(self.case, positions)
            asked = self._predicted(self.asked, positions) if len(self.asked.numbers) else np.zeros(0, dtype=np.int64)
        except RunError as error:
            self.failed = str(error)
            return _Outcome(None, None, None, None)
        right = beside == self.case.labels
        accuracy = float(right[self.known].mean()) if self.known.any() else None
        broken = int((self.right & ~right)[self.known].sum()) if self.known.any() else None
        corrected = int((asked == self.asked.labels)[self.wrong].sum()) if self.wrong.any() else None
        return _Outcome(corrected, broken, int((asked != self.asked.classes).sum()), accuracy)

    def _predicted(self, case: Case, positions: tuple[int, ...]) -> np.ndarray:
        (found,) = logits(case, self.kind, [positions])
        if found is None:
            raise RunError("the fusion does not work with so few clients")
        return found.argmax(1).cpu().numpy()


def _suspect(
    material: Material, found: StandsOut, tops: Mapping[int, int], without: _Without, several: bool
) -> Suspect:
    count = len(material.asked.numbers)
    outcome = without.of([found.client])
    on_top = tops.get(found.client, 0)
    asked = material.question.called(count)
    reasons = [CHARGES[name].words.format(asked) for name in found.charges[:REASONS]]
    if on_top * len(tops) > count:  # more than its share
        part = asked if count == 1 else f"{on_top:,} of {asked}"
        reasons = [f"behind {part}", *(text for text in reasons if not text.startswith("behind most"))]
    return Suspect(
        client=found.client,
        name=material.names.get(found.client),
        score=round(found.z, 3),
        reasons=tuple(dict.fromkeys(reasons)),
        inputs=on_top,
        corrected=outcome.corrected,
        broken=outcome.broken,
        since=found.since if several else None,
        faulty=None if material.faulty is None else found.client in material.faulty,
        changed=outcome.changed,
    )


def _scores(rounds: Mapping[int, Sequence[Judged]]) -> Iterator[ClientScore]:
    for number in sorted(rounds):
        for each in rounds[number]:
            rows = zip(each.measured.clients, each.measured.values.tolist(), each.z.tolist(), strict=True)
            for client, value, z in rows:
                known = None if np.isnan(z) else round(z, 4)
                yield ClientScore(each.measured.score, client, round(value, 6), known, each.threshold, number)


def _notes(material: Material, clients: int, without: _Without) -> Iterator[str]:
    if clients < FEWEST:
        yield f"{counted(clients, 'client')}: fewer than {FEWEST} are too few to tell who is unlike the others"
    if without.failed:
        yield f"what would be without suspects is not known: {without.failed}"
    if without.found and material.beside.stored.number > 1:
        yield "the last round was fused again: what suspects sent in earlier rounds stays in the model"
    if without.kind == "withhold" and without.found:
        yield "how to fuse these rounds again is not recorded, so clients were withheld: the others' shares stay"
    if not without.known.all():
        yield "labels are not known of all inputs" if without.known.any() else "labels are not known"
