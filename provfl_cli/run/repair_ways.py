"""The ways to a global model without some clients: refused, taken out, continued by the others, trained again."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from rich.console import Console
from torch import Tensor

from ..attribution.removed import refused, taken_out
from ..config.schema import Config
from ..data.federated import FederatedData
from ..errors import InputError
from ..evaluation.repair import Quality, nearest
from ..federation.events import ClientFinished, Event, RoundFinished, RoundStarted
from ..federation.key import training_key
from ..federation.warm_start import initial_model
from ..provenance.shared_part import load_part
from ..reporting.progress import RoundProgress
from ..results.repair import FINETUNE, LINEAGE, REFUSE, RETRAIN, WAYS
from ..retraining.others import continued, from_the_beginning, is_trained, trained
from ..store.rounds import Round
from .repairable import RUN, Repairable
from .trained_again import federation_again

Weights = Mapping[str, Tensor]
Again = tuple[Config, FederatedData]
"""A run's configuration and the data of its clients."""

INSTEAD = "--how refuse,lineage"


@dataclass(frozen=True)
class Asked:
    """What is asked for.

    Attributes:
        gone: numbers of the clients who go.
        ways: how; (): in all ways that are cheap.
        first: the first round from which on; None: `refuse` the last one, the others all.
        more: rounds that `finetune` goes on.
        base: what it begins with, `refuse` or `lineage`; None: the better one by what was measured.
    """

    gone: tuple[int, ...]
    ways: tuple[str, ...] = ()
    first: int | None = None
    more: int = 3
    base: str | None = None

    def wants(self, *ways: str) -> bool:
        """Whether one of the ways is to be gone."""
        return not self.ways or any(way in self.ways for way in ways)


@dataclass
class Made:
    """Models as they are made, by way; how long each took, why one is missing, and what `finetune` began with."""

    weights: dict[str, Weights] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    base: str = ""
    notes: list[str] = field(default_factory=list)

    def drop(self, way: str) -> None:
        """Forget what was made only because another way needed it."""
        self.weights.pop(way, None)
        self.seconds.pop(way, None)
        self.missing.pop(way, None)


def make_all(
    of: Repairable,
    asked: Asked,
    last: Round,
    again: Again | None,
    measure: Callable[[Weights], Quality],
    console: Console,
) -> Made:
    """Make the models that are asked for.

    Args:
        of: the federation.
        asked: who goes, and how.
        last: its last round.
        again: what training needs; None: it is not at hand.
        measure: what is known of a model, to choose what `finetune` begins with.
        console: where to show how far training is.

    Raises:
        InputError: a way that was asked for by name cannot be gone.
    """
    made = Made()
    if asked.wants(REFUSE, FINETUNE):
        _attempt(asked, REFUSE, made, lambda: _refused(of, asked, last))
    if asked.wants(LINEAGE, FINETUNE):
        _attempt(asked, LINEAGE, made, lambda: _taken_out(of, asked, last))
    if FINETUNE in asked.ways or (not asked.ways and again is not None):
        _attempt(asked, FINETUNE, made, lambda: _continued(of, asked, made, again, measure, console))
    if asked.wants(RETRAIN):
        _reference(of, asked, made, again, console)
    for way in WAYS:
        if not asked.wants(way):
            made.drop(way)
    return made


def data_of(of: Repairable, asked: Asked) -> tuple[Again | None, list[str]]:
    """The run's configuration and data, where they are at hand, and what to say where they are not."""
    if of.opened is None or of.source != RUN:
        for way in (FINETUNE, RETRAIN):
            if way in asked.ways:
                raise InputError(
                    f"--how {way}: trains, and the clients' data of a recorded federation are not here: {INSTEAD}"
                )
        return None, []
    needed = next((way for way in (RETRAIN, FINETUNE) if way in asked.ways), None)
    try:
        return federation_again(of.opened, f"--how {needed or REFUSE}", INSTEAD, needed == RETRAIN), []
    except InputError as error:
        if needed:
            raise
        return None, [f"nothing could be measured: {str(error).removeprefix(f'--how {REFUSE}: ')}"]


def _attempt(asked: Asked, way: str, made: Made, make: Callable[[], Weights]) -> None:
    """Make a model; where it was not asked for by name, a reason why it cannot be had does."""
    began = time.perf_counter()
    try:
        made.weights[way] = make()
    except InputError as error:
        if way in asked.ways:
            raise
        made.missing[way] = str(error).removeprefix(f"--how {way}: ")
    else:
        made.seconds.setdefault(way, time.perf_counter() - began)


def _refused(of: Repairable, asked: Asked, last: Round) -> Weights:
    if of.server is None:
        raise InputError(
            "--how refuse: how the rounds were fused is not known well enough to do it again: --how lineage"
        )
    return refused(of.since(asked.first or last.number, REFUSE), asked.gone, of.server)


def _taken_out(of: Repairable, asked: Asked, last: Round) -> Weights:
    rows = last.lineage_rows
    if asked.first is None and rows is not None and rows.decay == 1:
        return taken_out(last, asked.gone)
    return taken_out(last, asked.gone, of.since(asked.first or 1, LINEAGE))


def _continued(
    of: Repairable,
    asked: Asked,
    made: Made,
    again: Again | None,
    measure: Callable[[Weights], Quality],
    console: Console,
) -> Weights:
    if again is None or of.opened is None:
        raise InputError(f"--how {FINETUNE}: the clients' data are not at hand")
    made.base = base = _base(asked, made, measure)
    model = copy.deepcopy(of.opened.model).cpu()
    load_part(model, made.weights[base])
    left = [client for client in of.known if client not in asked.gone]
    smaller = continued(*again, left, asked.more)
    with RoundProgress(console) as progress:
        result = trained(*smaller, model, of.opened.device, partial(_shown, progress))
    made.seconds[FINETUNE] = made.seconds[base] + result.seconds
    return result.weights


def _base(asked: Asked, made: Made, measure: Callable[[Weights], Quality]) -> str:
    """What `finetune` begins with: where a fault is measured the better one, else the one without all they sent."""
    there = [way for way in (LINEAGE, REFUSE) if way in made.weights]
    if asked.base is not None:
        if asked.base not in there:
            raise InputError(f"--after {asked.base}: {made.missing[asked.base]}")
        return asked.base
    if not there:
        raise InputError(f"--how {FINETUNE}: there is nothing to begin with: {made.missing[LINEAGE]}")
    measured = {way: measure(made.weights[way]) for way in there} if len(there) > 1 else {}
    if measured and not any(math.isnan(quality.success) for quality in measured.values()):
        return nearest(measured, None)[0]
    return there[0]


def _reference(of: Repairable, asked: Asked, made: Made, again: Again | None, console: Console) -> None:
    """The retrained model: trained where it was asked for, else taken where it lies in the cache."""
    if again is None or of.opened is None or (of.opened.published and RETRAIN not in asked.ways):
        return
    config, data = again
    left = [client for client in of.known if client not in asked.gone]
    initial = initial_model(config, data)
    try:
        smaller = from_the_beginning(config, data, left)
    except InputError:
        if RETRAIN in asked.ways:
            raise
        return
    if RETRAIN not in asked.ways and not is_trained(*smaller, initial, of.opened.device):
        return
    with RoundProgress(console) as progress:
        result = trained(*smaller, initial, of.opened.device, partial(_shown, progress))
    made.weights[RETRAIN], made.seconds[RETRAIN] = result.weights, result.seconds
    if training_key(config, data, initial, of.opened.device)[0] != of.opened.key:
        made.notes.append(
            "retrained by another version of ProvFL or torch, or on another device, than the run: what differs without "
            "the clients holds a little of that"
        )


def _shown(progress: RoundProgress, event: Event) -> None:
    match event:
        case RoundStarted():
            progress.round_started(event.number, event.rounds, len(event.clients))
        case ClientFinished():
            progress.client_finished()
        case RoundFinished():
            progress.round_finished(event.number, {"accuracy": event.metrics.accuracy, "loss": event.metrics.loss})
