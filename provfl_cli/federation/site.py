"""What one process needs to train clients and to evaluate: its own copy of the model, and views of everything else."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import schema
from ..config.parts import Injection
from ..data.federated import ClientData, FederatedData, Texts
from ..data.injection import AS_TRAINED
from ..errors import RunError
from ..fusion.fuse import Fusion
from ..fusion.privacy import Privacy
from ..fusion.submission import Submission
from ..store.tensorfile import Specs, write_slot
from .client import evaluate, full_gradient, local_steps, train_client, trained_weights
from .controls import CONTROLS, Controls, controls_before
from .optimizers import total_rate

CHUNK = 256  # test examples evaluated together; fixed, since a sum depends on how it is grouped
ALIGNMENT = 64


@dataclass(frozen=True)
class TrainTask:
    """Train the client at `position` and write its model into `slot` of the stacked tensors in `file`.

    `epochs`: passes over its data, None for all of `local_epochs`. `controls`: the file with the clients' control
    variates before the round, see `controls.py`; None where the fusion has none.
    """

    round: int
    position: int
    file: str
    slot: int
    epochs: int | None = None
    controls: str | None = None


@dataclass(frozen=True)
class EvaluateTask:
    """Evaluate the global model on chunk number `chunk` of the server's test set."""

    chunk: int


Task = TrainTask | EvaluateTask


@dataclass(frozen=True)
class TrainedClient:
    """What a client returns: its mean training loss, its tensors, and its new control variate, if any."""

    loss: float
    weights: Mapping[str, Tensor]
    control: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Site:
    """A model to work with, the data, the settings, and the global weights as the server published them last."""

    model: nn.Module
    data: FederatedData
    settings: schema.Federation
    fusion: Fusion
    privacy: Privacy
    seed: int
    published: Mapping[str, Tensor]
    buffers: frozenset[str]
    injection: Injection = AS_TRAINED

    def perform(self, task: Task) -> tuple[float, ...]:
        """Do a task: `(mean training loss,)` of a client, or `(summed loss, correct)` of a chunk.

        Raises:
            RunError: where it fails, naming client and round.
        """
        if isinstance(task, EvaluateTask):
            self.model.load_state_dict(self.published)
            part = slice(task.chunk * CHUNK, (task.chunk + 1) * CHUNK)
            # Cloned, so that torch's own allocation decides the alignment, on which the last digit may depend.
            test = self.data.evaluated
            return evaluate(self.model, test.inputs[part].clone(), test.labels[part])
        with self._named(task):
            controls = read_controls(task)
            trained = self.train(task, controls)
            write_trained(task, trained)
        return (trained.loss,)

    def train(self, task: TrainTask, controls: Controls | None) -> TrainedClient:
        """Train a client; `controls` are those before the round, None where the fusion has none. Writes nothing.

        Raises:
            RunError: where it fails, naming client and round.
        """
        self.model.load_state_dict(self.published)
        client = self.data.clients[task.position]
        padding = self.data.form.padding if isinstance(self.data.form, Texts) else None
        with self._named(task):
            if controls is None:
                control = None
                loss = train_client(
                    self.model, client, self.settings, self.fusion, self.seed, task.round, padding, task.epochs
                )
            else:
                loss, control = _train_controlled(self, client, task, controls, padding)
            weights = self.model.state_dict()
            sent = Submission(weights, self.published, self.buffers, self.seed, task.round, client.id)
            self.privacy.privatise(sent)
            self.injection.returned(sent)
        return TrainedClient(loss, weights, control)

    @contextmanager
    def _named(self, task: TrainTask) -> Iterator[None]:
        """Let what is raised within say which client it was, and in which round."""
        try:
            yield
        except RunError:
            raise
        except Exception as error:
            client = self.data.clients[task.position].id
            raise RunError(f"client {client} failed in round {task.round}: {type(error).__name__}: {error}") from error


def make_site(config: schema.Config, data: FederatedData, model: nn.Module, published: Mapping[str, Tensor]) -> Site:
    """A site for a federation: `model` is worked with, `published` are the global weights."""
    buffers = frozenset(model.state_dict()) - {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return Site(
        model,
        data,
        config.federation,
        config.fusion,
        config.privacy,
        config.seed,
        published,
        buffers,
        config.injection,
    )


def read_controls(task: TrainTask) -> Controls | None:
    """The control variates that a task starts from; None where the fusion has none."""
    return None if task.controls is None else controls_before(Path(task.controls), task.round, task.position)


def write_trained(task: TrainTask, trained: TrainedClient) -> None:
    """Write what a client returns to where its task says."""
    write_slot(Path(task.file), trained.weights, task.slot)
    if trained.control is not None:
        write_slot(Path(task.file).with_name(CONTROLS), trained.control, task.position)


def _train_controlled(
    site: Site, client: ClientData, task: TrainTask, controls: Controls, padding: int | None
) -> tuple[float, dict[str, Tensor]]:
    """A client's round where it keeps a state: train with its correction; its loss and its new control variate."""
    fusion, settings, model = site.fusion, site.settings, site.model
    state = fusion.client_state
    assert state is not None
    weights = trained_weights(model)
    # Copied: what comes from a file or a message may lie anywhere, and the last digit may depend on where.
    control, own = ([part[name].to(value, copy=True) for name, value in weights.items()] for part in controls)
    start = [weight.detach().clone() for weight in weights.values()]
    gradient = None
    if state.whole_gradient:
        gradient = full_gradient(model, client, settings, site.seed, task.round, padding)
    correction = state.correction(control, own)
    loss = train_client(model, client, settings, fusion, site.seed, task.round, padding, task.epochs, correction)
    end = [weight.detach() for weight in trained_weights(model).values()]
    rates = total_rate(settings, local_steps(len(client.labels), settings, task.epochs))
    renewed = state.renewed(control, own, start, end, rates, gradient)
    return loss, dict(zip(weights, renewed, strict=True))


def shared_tensors(specs: Specs) -> dict[str, Tensor]:
    """Zeros of these types and shapes in memory that forked processes share (anonymous: nothing in /dev/shm)."""
    offsets: dict[str, int] = {}
    size = 0
    for name, (dtype, shape) in specs.items():
        offsets[name] = size
        size += -(-dtype.itemsize * torch.Size(shape).numel() // ALIGNMENT) * ALIGNMENT
    memory = mmap.mmap(-1, max(size, 1))
    tensors = {}
    for name, (dtype, shape) in specs.items():
        count = torch.Size(shape).numel()
        flat = torch.frombuffer(memory, dtype=dtype, count=count, offset=offsets[name]) if count else torch.empty(0)
        tensors[name] = flat.to(dtype).view(shape)
    return tensors
