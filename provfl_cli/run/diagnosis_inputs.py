"""What `provfl diagnose` asks about: mistakes, predictions of a label, what became wrong, or inputs of one's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..attribution.evidence import UNKNOWN, only
from ..attribution.method import Case
from ..data.federated import Dialogues
from ..data.load import test_set
from ..errors import InputError
from ..provenance.outputs import count_of
from ..provenance.shared_part import load_part
from ..store.rounds import Round
from .diagnosed import Material, Question
from .inputs import RunInputs, TracedInputs
from .open_run import OpenFederation
from .tracing import model_outputs

MOST_ROUNDS = 20  # that are looked at beside the last
MOST_BESIDE = 10_000  # inputs by which accuracy is measured


@dataclass(frozen=True)
class Asked:
    """What is asked about; of nothing that is set: the mistakes among the inputs at hand.

    Attributes:
        inputs: a file or folder with inputs; of a recorded federation `all`.
        wrong: mistakes alone, so that inputs without labels are refused.
        label: predictions of this label, by name or number.
        since: mistakes that the model before this round had right; only rounds from it on are looked at.
    """

    inputs: Path | None = None
    wrong: bool = False
    label: str | None = None
    since: int | None = None


def material_of(opened: OpenFederation, asked: Asked, number: int | None = None) -> Material:
    """What a diagnosis of an opened federation is made of.

    Args:
        opened: the federation.
        asked: about what.
        number: of the round; None: the last one traced, else the last.

    Raises:
        InputError: there are no classes, or no such inputs, label or round.
        RunError: a stored file is damaged.
    """
    if isinstance(opened.form, Dialogues):
        raise InputError(f"{opened.folder}: its model answers prompts: provfl trace asks who pushed a response")
    if opened.meaning.target is not None:
        raise InputError(f"{opened.folder}: its model tells no classes apart, so that no prediction is right or wrong")
    stored = opened.round(number)
    opened.model.to(opened.device)
    there = _at_hand(opened, stored.number)
    whole = _case(opened, stored, there)
    notes = [*opened.notes, *there.notes]
    question, chosen = _chosen(opened, asked, stored, whole)
    beside = whole
    if (plain := _plain(opened)) is not None:
        beside = _case(opened, stored, plain)
    if len(beside.numbers) > MOST_BESIDE:
        beside = only(beside, np.linspace(0, len(beside.numbers) - 1, MOST_BESIDE).round().astype(np.int64))
        notes.append(f"accuracy is that of {MOST_BESIDE:,} of {len(whole.numbers):,} inputs")
    first = 1 if asked.since is None else asked.since
    earlier = [each for each in opened.rounds if first <= each < stored.number]
    if len(earlier) > MOST_ROUNDS:
        notes.append(f"of the {len(earlier)} rounds before, the last {MOST_ROUNDS} are looked at")
    return Material(
        asked=chosen,
        beside=replace(beside, unlabelled=None),
        question=question,
        load=opened.load,
        earlier=tuple(earlier[-MOST_ROUNDS:]),
        open_round=opened.round,
        names=opened.client_names,
        faulty=None if opened.settings is None else opened.faulty,
        notes=tuple(dict.fromkeys(notes)),
    )


def _case(opened: OpenFederation, stored: Round, inputs: TracedInputs) -> Case:
    """Inputs with the classes that a round's model predicts."""
    opened.load(stored)
    classes = model_outputs(opened.model, inputs.inputs, opened.device, classes=True).argmax(1).numpy()
    return replace(opened.case(stored, inputs, classes), unlabelled=None)


def _at_hand(opened: OpenFederation, number: int) -> TracedInputs:
    """All inputs of the federation: the run's test set, what it traced of it where that is gone; or what was given."""
    inputs = opened.inputs
    if not isinstance(inputs, RunInputs):
        return inputs.many(Path("all"))
    try:
        return inputs.test_inputs()
    except InputError as error:
        found = inputs.traced_of(number)
        note = f"the run's test set is not at hand ({error}): only what it traced of it is looked at"
        return replace(found, notes=(*found.notes, note))


def _plain(opened: OpenFederation) -> TracedInputs | None:
    """The run's test set without a backdoor's trigger, where predictions with it are traced; else None."""
    config, inputs = opened.config, opened.inputs
    if config is None or config.evaluation.inputs != "triggered" or not isinstance(inputs, RunInputs):
        return None
    evaluation = replace(config.evaluation, inputs="all")
    reads = replace(
        inputs, read_test_set=lambda dataset: test_set(replace(config, dataset=dataset, evaluation=evaluation))
    )
    try:
        return reads.test_inputs()
    except InputError:
        return None


def _chosen(opened: OpenFederation, asked: Asked, stored: Round, whole: Case) -> tuple[Question, Case]:
    """The predictions asked about; InputError where there are none of inputs that were named."""
    known = whole.labels != UNKNOWN
    wrong = known & (whole.classes != whole.labels)
    if asked.inputs is not None:
        given = opened.inputs.many(asked.inputs)
        case = _case(opened, stored, given)
        of = (case.labels != UNKNOWN) & (case.labels != case.classes)
        return Question("given input", mistakes=bool(of.all())), case
    if asked.label is not None:
        label = opened.label(asked.label)
        name = opened.label_names[label]
        at = np.flatnonzero(whole.classes == label)
        if not len(at):
            raise InputError(f"--label {asked.label}: none of {count_of(whole.inputs):,} inputs is predicted so")
        return Question("prediction", f" of label {name}"), only(whole, at)
    if asked.since is not None:
        return _became_wrong(opened, asked.since, stored, whole, wrong)
    if not known.any():
        if asked.wrong:
            raise InputError("--wrong: no label is known, so that nobody knows which predictions are wrong: --inputs")
        return Question("prediction"), whole
    mistakes = only(whole, np.flatnonzero(wrong))
    return Question("mistake", mistakes=True), mistakes


def _became_wrong(
    opened: OpenFederation, since: int, stored: Round, whole: Case, wrong: np.ndarray
) -> tuple[Question, Case]:
    """Mistakes that the model with which round `since` began had right."""
    if not (whole.labels != UNKNOWN).any():
        raise InputError(f"--since {since}: no label is known, so that nobody knows what became wrong: --inputs")
    if since > stored.number:
        raise InputError(f"--since {since}: the last round looked at is {stored.number}")
    first = stored if since == stored.number else opened.round(since, "--since")
    before = _before(opened, first, whole)
    opened.load(stored)
    at = np.flatnonzero(wrong & (before == whole.labels))
    return Question("mistake", f" that round {since - 1} had right", mistakes=True), only(whole, at)


def _before(opened: OpenFederation, first: Round, whole: Case) -> np.ndarray:
    """What the model before a round predicts, int64 `[n]`."""
    opened.load(first)
    load_part(opened.model, first.previous())
    found: np.ndarray = model_outputs(opened.model, whole.inputs, opened.device, classes=True).argmax(1).numpy()
    return found
