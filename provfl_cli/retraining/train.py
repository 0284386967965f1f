"""Train federations again without some clients, many side by side, each an ordinary one of the training cache.

A worker trains a whole federation by itself, with one torch thread: to the last bit what `provfl run` would train of
these clients. Data and models are in its memory from the fork on. What is in the cache is not trained again, so that a
killed run goes on where it was, and several processes that are asked for the same share the work: each leaves out what
another is just training, and looks for it at the end.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..config import schema
from ..data.federated import FederatedData
from ..errors import TrainingFailed
from ..federation.events import Event, RoundFinished, WaitingForProcess
from ..federation.forked import forked
from ..federation.loss import evaluate
from ..federation.private import private_folder, read_private
from ..federation.sharing import sharing_of
from ..federation.site import CHUNK
from ..federation.train import federated_rounds
from ..processes import available_cores, can_fork, one_thread
from ..provenance.merged import load_round
from ..provenance.shared_part import load_part
from .designs import Retraining, Subset
from .predictions import Answer, Asked, answered
from .subset import subset, why_not

Training = tuple[str, Subset, int]
"""What is trained once, however many designs ask for it: whose data (see `Whole.others`), clients, training seed."""


@dataclass(frozen=True)
class Whole:
    """The federation that is trained again in parts.

    Attributes:
        config: of the run.
        data: of all clients.
        models: the initial model by training seed.
        device: where to train.
        completing: by traced round, whose private tensors complete the model; {}: nothing is private.
        others: by design, configuration and data of one that is not made of the run's own.
    """

    config: schema.Config
    data: FederatedData
    models: Mapping[int, nn.Module]
    device: torch.device
    completing: Mapping[int, int] = field(default_factory=dict)
    others: Mapping[str, tuple[schema.Config, FederatedData]] = field(default_factory=dict)

    def training(self, retraining: Retraining) -> Training:
        """What has to be trained for a retraining."""
        return retraining.design if retraining.design in self.others else "", retraining.clients, retraining.seed

    def why_not(self, retraining: Retraining, rounds: int) -> str:
        """Why it cannot be trained for so many rounds, "" where nothing speaks against it."""
        federation = self.others.get(retraining.design, (self.config, self.data))
        return why_not(*federation, retraining.clients, rounds, self.completing.values())


@dataclass(frozen=True)
class Outcome:
    """What became of a federation that was trained again.

    Attributes:
        key: in the training cache; "" where there was nothing to train, or it could not be.
        accuracy: of the global model after the last round asked about; NaN where there is none.
        seconds: of training, whenever that was.
        answers: by round, what the model makes of the inputs asked about; {}: there is no model.
        reason: why there is none.
        trained: rounds that were trained just now; 0: it was in the cache.
    """

    key: str = ""
    accuracy: float = float("nan")
    seconds: float = 0.0
    answers: Mapping[int, Answer] = field(default_factory=dict)
    reason: str = ""
    trained: int = 0


class _Busy(Exception):
    """Another process is training this federation."""


@contextmanager
def retrained(
    whole: Whole, asked: Sequence[Asked], retrainings: Sequence[Retraining], workers: int | None
) -> Iterator[Iterator[tuple[Training, Outcome]]]:
    """Train all that the retrainings ask for, each federation once; yields each as it is there.

    Enter it before any thread is started. A federation that cannot be trained (too few clients for its fusion, one that
    diverges) has an outcome that says why.

    Args:
        whole: the federation.
        asked: predictions to be made, by round ascending; it is trained up to the last of these rounds.
        retrainings: what to train.
        workers: how many at a time; None: one a core. Where nothing can be forked, or on a GPU, one after the other.

    Raises:
        RunError: a worker died, a stored file is damaged, the disk is full.
    """
    trainings = list(dict.fromkeys(map(whole.training, retrainings)))
    hands = min(workers or available_cores(), len(trainings))

    def perform(task: tuple[Training, bool]) -> Outcome | None:
        return train_subset(whole, asked, *task)

    if hands and whole.device.type == "cpu" and can_fork():
        with forked(perform, hands, lambda task: _doing(task[0]), "retrain.workers=1") as ask:
            yield _all(trainings, ask)
    else:
        yield _all(trainings, lambda tasks: ((position, perform(task)) for position, task in enumerate(tasks)))


Ask = Callable[[Sequence[tuple[Training, bool]]], Iterator[tuple[int, Outcome | None]]]


def _all(trainings: Sequence[Training], ask: Ask) -> Iterator[tuple[Training, Outcome]]:
    """First what nobody else is training, then what others have trained meanwhile, or left when they died."""
    left = list[Training]()
    for position, outcome in ask([(training, False) for training in trainings]):
        if outcome is None:
            left.append(trainings[position])
        else:
            yield trainings[position], outcome
    for position, outcome in ask([(training, True) for training in left]):
        assert outcome is not None  # it was waited for
        yield left[position], outcome


def _doing(training: Training) -> str:
    return f"while it trained without some clients, with {', '.join(map(str, training[1]))} (seed {training[2]})"


def train_subset(whole: Whole, asked: Sequence[Asked], training: Training, wait: bool) -> Outcome | None:
    """Train one federation in this process, or find it in the cache, and predict with its models.

    Returns None where another process is training it, and nobody is to `wait` for that.
    """
    other, clients, seed = training
    config, data = whole.others[other] if other else (whole.config, whole.data)
    last = max(question.round for question in asked)
    model = copy.deepcopy(whole.models[seed]).to(whole.device)
    if reason := why_not(config, data, clients, last, whole.completing.values()):
        return Outcome(reason=reason)
    if not clients:
        return _untrained(model, data, asked, whole.device)
    trained = 0

    def observe(event: Event) -> None:
        nonlocal trained
        if isinstance(event, WaitingForProcess) and not wait:
            raise _Busy
        trained += isinstance(event, RoundFinished)

    smaller, shares = subset(config, data, clients, seed, last)
    wanted = {question.round for question in asked}
    # A twin is what a run without faults would be, which shows all rounds; halves of the clients are asked about alone.
    evaluated = None if other else wanted
    cache = Path(config.store.cache)
    initial = whole.models[seed]
    answers = dict[int, Answer]()
    try:
        with federated_rounds(
            smaller, shares, initial, cache, wanted, whole.device, observe, workers=0, evaluated=evaluated
        ) as rounds:
            for stored in rounds:
                load_round(model, stored)
                entry = stored.folder.parent.parent
                if stored.number in whole.completing:
                    private = sharing_of(model, smaller.federation, smaller.model.adapter).private
                    own = read_private(private_folder(entry, stored.number), whole.completing[stored.number])
                    # Who has not trained yet has the initial tensors, which are in the model.
                    load_part(model, {} if own is None else {name: own[name] for name in private})
                with one_thread():
                    answers |= {
                        question.round: answered(model, question, whole.device)
                        for question in asked
                        if question.round == stored.number
                    }
    except _Busy:
        return None
    except TrainingFailed as error:
        return Outcome(reason=str(error), trained=trained)
    seconds = sum(metrics.seconds for metrics in stored.history)
    return Outcome(entry.name, stored.metrics.accuracy, seconds, answers, trained=trained)


def _untrained(model: nn.Module, data: FederatedData, asked: Sequence[Asked], device: torch.device) -> Outcome:
    """Without any client the model stays as it was at the beginning."""
    test, correct = data.evaluated, 0
    with one_thread():
        for first in range(0, len(test.labels), CHUNK):
            part = slice(first, first + CHUNK)
            correct += evaluate(model, test.inputs[part].clone(), test.labels[part])[1]
        answers = {question.round: answered(model, question, device) for question in asked}
    return Outcome(accuracy=correct / len(test.labels), answers=answers)
