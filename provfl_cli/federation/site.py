"""What one process needs to train clients and to evaluate: its own copy of the model, and views of everything else."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
from ..provenance.merged import load_merged, merged_of
from ..store.tensorfile import Specs, open_tensors, write_slot
from .client import full_gradient, local_steps, train_client, trained_weights
from .controls import CONTROLS, Controls, controls_before
from .loss import evaluate
from .optimizers import total_rate
from .private import before_round, read_private, write_private
from .sharing import Sharing, freeze, only, sharing_of

CHUNK = 256  # test examples evaluated together; fixed, since a sum depends on how it is grouped
ALIGNMENT = 64


@dataclass(frozen=True)
class TrainTask:
    """Train the client at `position` and write its model into `slot` of the stacked tensors in `file`.

    `epochs`: passes over its data, None for all of `local_epochs`. `controls`: the file with the clients' control
    variates before the round, see `controls.py`; None where the fusion has none. `private`: the folder of the round
    into which clients write what they keep for themselves, see `private.py`; None where they keep nothing. `merged`:
    the file with the factors that former rounds put into the base of adapted layers; None where none did.
    `attack_share`: as in `Submission`.
    """

    round: int
    position: int
    file: str
    slot: int
    epochs: int | None = None
    controls: str | None = None
    private: str | None = None
    merged: str | None = None
    attack_share: float | None = None


@dataclass(frozen=True)
class EvaluateTask:
    """Evaluate the global model on chunk number `chunk` of the server's test set.

    With what the client at `position` keeps for itself in the folder `private`, where clients keep anything; `merged`
    as of `TrainTask`.
    """

    chunk: int
    position: int = 0
    private: str | None = None
    merged: str | None = None


Task = TrainTask | EvaluateTask


@dataclass(frozen=True)
class TrainedClient:
    """What a client returns: its mean training loss, its tensors, and its new control variate, if any."""

    loss: float
    weights: Mapping[str, Tensor]
    control: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Site:
    """A model to work with, the data, the settings, and the global weights as the server published them last.

    `sharing` says what of the model those are (None: all), `initial` has the first values of what is private.
    """

    model: nn.Module
    data: FederatedData
    settings: schema.Federation
    fusion: Fusion
    privacy: Privacy
    seed: int
    published: Mapping[str, Tensor]
    buffers: frozenset[str]
    injection: Injection = AS_TRAINED
    sharing: Sharing | None = None
    initial: Mapping[str, Tensor] = field(default_factory=dict)

    def perform(self, task: Task) -> tuple[float, ...]:
        """Do a task: `(mean training loss,)` of a client, or `(summed loss, correct)` of a chunk.

        Raises:
            RunError: where it fails, naming client and round.
        """
        if isinstance(task, EvaluateTask):
            own = None if task.private is None else read_private(Path(task.private), self._client(task))
            self._load(own, read_merged(task))
            part = slice(task.chunk * CHUNK, (task.chunk + 1) * CHUNK)
            # Cloned, so that torch's own allocation decides the alignment, on which the last digit may depend.
            test = self.data.evaluated
            return evaluate(self.model, test.inputs[part].clone(), test.labels[part])
        with self._named(task):
            controls = read_controls(task)
            trained = self.train(task, controls, read_merged(task))
            write_trained(task, trained)
        return (trained.loss,)

    def train(
        self, task: TrainTask, controls: Controls | None, merged: Mapping[str, Tensor] | None = None
    ) -> TrainedClient:
        """Train a client. Writes nothing.

        Args:
            task: which client, and how.
            controls: those before the round, None where the fusion has none.
            merged: the factors that former rounds put into the base of adapted layers, by name; None: none did.

        One that attacks in the round trains on what its attack asks for, and for so many passes.

        Raises:
            RunError: where it fails, naming client and round.
        """
        client = self.data.clients[task.position]
        if task.attack_share is not None:
            client = self.data.attacking.get(client.id, client)
            task = replace(task, epochs=self.injection.attack_epochs or task.epochs)
        self._load(None if task.private is None else before_round(task.private, task.round, client.id), merged)
        padding = self.data.form.padding if isinstance(self.data.form, Texts) else None
        with self._named(task):
            if controls is None:
                control = None
                loss = self._trained(client, task, padding)
            else:
                loss, control = _train_controlled(self, client, task, controls, padding)
            after = self.model.state_dict()
            weights = {name: after[name] for name in self.published}
            sent = Submission(
                weights, self.published, self.buffers, self.seed, task.round, client.id, task.attack_share
            )
            self.privacy.privatise(sent)
            self.injection.returned(sent)
            if task.private is not None:
                write_private(task.private, client.id, {name: after[name] for name in self.private})
        return TrainedClient(loss, weights, control)

    @property
    def private(self) -> tuple[str, ...]:
        """Names of the tensors that each client keeps for itself."""
        return () if self.sharing is None else self.sharing.private

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the tensors that nobody trains."""
        return () if self.sharing is None else self.sharing.frozen

    def shared_weights(self) -> dict[str, nn.Parameter]:
        """Of the trained weights of the model those that are shared, by name."""
        return {name: weight for name, weight in trained_weights(self.model).items() if name in self.published}

    def _client(self, task: TrainTask | EvaluateTask) -> int:
        return self.data.clients[task.position].id

    def _load(self, own: Mapping[str, Tensor] | None, merged: Mapping[str, Tensor] | None) -> None:
        """Put the global weights into the model, and what a client keeps for itself, None where it has not trained.

        And `merged` beside the base of adapted layers.
        """
        if self.fusion.sums_products:
            load_merged(self.model, merged or {})
        if self.sharing is None or self.sharing.whole:
            self.model.load_state_dict(self.published)
            return
        own = self.initial if own is None else own
        self.model.load_state_dict({**self.published, **{name: own[name] for name in self.private}}, strict=False)

    def _trained(self, client: ClientData, task: TrainTask, padding: int | None) -> float:
        """Train a client without control variates; what is private first, where that is asked for."""

        def trained(epochs: int | None, phase: str = "") -> float:
            return train_client(
                self.model,
                client,
                self.settings,
                self.fusion,
                self.seed,
                task.round,
                padding,
                epochs,
                private=self.private,
                frozen=self.frozen,
                phase=phase,
            )

        if not self.settings.head_epochs:
            return trained(task.epochs)
        with only(self.model, self.private):
            trained(self.settings.head_epochs, "private ")
        with only(self.model, self.published):
            return trained(task.epochs)

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
    sharing = sharing_of(model, config.federation, config.model.adapter)
    freeze(model, sharing)
    tensors = model.state_dict()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = frozenset(sharing.shared) - parameters
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
        sharing,
        {name: tensors[name].clone() for name in sharing.private},
    )


def read_controls(task: TrainTask) -> Controls | None:
    """The control variates that a task starts from; None where the fusion has none."""
    return None if task.controls is None else controls_before(Path(task.controls), task.round, task.position)


def read_merged(task: Task) -> dict[str, Tensor] | None:
    """The factors that former rounds put into the base of adapted layers; None where none did."""
    return None if task.merged is None else merged_of(open_tensors(Path(task.merged)))


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
    weights = site.shared_weights()
    # Copied: what comes from a file or a message may lie anywhere, and the last digit may depend on where.
    control, own = ([part[name].to(value, copy=True) for name, value in weights.items()] for part in controls)
    start = [weight.detach().clone() for weight in weights.values()]
    gradient = None
    if state.whole_gradient:
        whole = full_gradient(model, client, settings, site.seed, task.round, padding, site.frozen)
        gradient = [value for name, value in zip(trained_weights(model), whole, strict=True) if name in weights]
    correction = dict(zip(weights, state.correction(control, own), strict=True))
    loss = train_client(
        model,
        client,
        settings,
        fusion,
        site.seed,
        task.round,
        padding,
        task.epochs,
        [correction.get(name, torch.zeros_like(weight)) for name, weight in trained_weights(model).items()],
        site.private,
        site.frozen,
    )
    end = [weight.detach() for weight in weights.values()]
    rates = total_rate(settings, task.round, local_steps(len(client.labels), settings, task.epochs))
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
