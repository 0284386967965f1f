"""Train a federation round by round, or find its rounds in the cache."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import schema
from ..data.federated import FederatedData
from ..errors import InputError, RunError
from ..fusion.fuse import fuse
from ..fusion.updates import Returned
from ..store.cache import Entry, open_entry, require_space
from ..store.rounds import CLIENTS, Metrics, Round, begin_round, commit_round
from ..store.tensorfile import Specs, open_tensors, size_of, specs_of
from .client import local_steps
from .engine import Perform, available_cores, engine, one_thread
from .events import (
    ClientFinished,
    Event,
    RoundFinished,
    RoundMissing,
    RoundsReused,
    RoundStarted,
    TrainingEnded,
    WaitingForProcess,
)
from .key import training_key
from .seeds import choose_clients
from .site import CHUNK, EvaluateTask, Site, TrainTask, shared_tensors

Observe = Callable[[Event], None]


@dataclass(frozen=True)
class _Training:
    """What stays the same over the rounds of one federation."""

    config: schema.Config
    site: Site
    perform: Perform
    entry: Entry
    initial: Mapping[str, Tensor]
    buffers: frozenset[str]
    observe: Observe


@dataclass(frozen=True)
class _State:
    """Where the server stands after a round; round 0 is the initial model."""

    number: int
    weights: Mapping[str, Tensor]
    server: Mapping[str, Tensor]
    history: tuple[Metrics, ...]


@contextmanager
def federated_rounds(
    config: schema.Config,
    data: FederatedData,
    model: nn.Module,
    cache: Path,
    wanted: set[int],
    device: torch.device,
    observe: Observe,
) -> Iterator[Iterator[Round]]:
    """Rounds of a federation, each as soon as it is on disk.

        with federated_rounds(...) as rounds:
            for round in rounds: ...

    Enter it before any progress thread is started (workers are forked here); within it the rounds are safe from being
    pruned. All of `federation.rounds` are trained unless they are in the cache, `wanted` are yielded, in order.

    Args:
        config: what to train; `store.keep` says which rounds stay on disk beside the wanted ones.
        data: the clients' shares and the server's test set, as tensors.
        model: the initial global model (round 0); it is left as it is.
        cache: folder of the training cache.
        wanted: round numbers, from 1 to `federation.rounds`.
        device: where clients train; on the CPU, on `engine.workers` processes.
        observe: is told every event as it happens, in this process.

    Raises:
        InputError: fewer clients were left than should train in a round.
        RunError: a client diverged or failed, a worker died, a stored file is damaged, the disk is full.
    """
    federation = config.federation
    per_round = federation.clients_per_round or len(data.clients)
    if per_round > len(data.clients):
        raise InputError(
            f"federation.clients_per_round={per_round}: only {len(data.clients)} clients are left after partitioning; "
            f"at most federation.clients_per_round={len(data.clients)}, or null for all of them"
        )
    if not wanted <= set(range(1, federation.rounds + 1)):
        raise InputError(f"rounds {sorted(wanted)}: the federation has rounds 1 to {federation.rounds}")
    initial = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    buffers = frozenset(initial) - {name for name, _ in model.named_parameters(remove_duplicate=False)}
    key, description = training_key(config, data, model, device)
    targets = wanted | {federation.rounds}
    kept = wanted | _kept_rounds(config.store.keep, federation.rounds)
    with open_entry(cache, key, description, config.store.max_gb) as entry:
        entry.keep(kept)
        stored = set(entry.stored())
        workers = 0  # where all is there
        if not targets <= stored:
            require_space(entry.folder, _space(specs_of(initial), per_round, len(kept - stored)))
            workers = min(config.engine.workers or available_cores(), per_round)
        own, published = copy.deepcopy(model).to(device), shared_tensors(specs_of(initial))
        site = Site(own, data, federation, config.fusion, config.seed, published)
        with engine(site, workers) as perform:
            training = _Training(config, site, perform, entry, initial, buffers, observe)
            rounds = _rounds(training, wanted, targets)
            try:
                yield rounds
            finally:
                rounds.close()


def _rounds(training: _Training, wanted: set[int], targets: set[int]) -> Generator[Round]:
    """Yield the wanted rounds, training up to each target that is not on disk."""
    entry, observe = training.entry, training.observe
    spent: dict[int, float] = {}  # seconds by round trained here
    reused = _reusable(entry, targets)
    if reused:
        history = entry.read(reused).history
        observe(RoundsReused(reused, sum(metrics.seconds for metrics in history), history))
    for target in sorted(targets):
        with entry.training(
            until=lambda target=target: target in entry.stored(),  # type: ignore[misc]
            waiting=lambda: observe(WaitingForProcess(entry.folder)),
        ) as ours:
            if ours:
                for metrics in _train_until(training, target):
                    spent[metrics.round] = metrics.seconds
        found = entry.read(target)
        if target == max(targets):
            entry.tidy(below=target)
            cached = sum(metrics.seconds for metrics in found.history if metrics.round not in spent)
            observe(TrainingEnded(len(spent), sum(spent.values()), cached))
        if target in wanted:
            yield found


def _reusable(entry: Entry, targets: set[int]) -> int:
    """The last stored round that this run can use: the last of its own, or one on the way to it (0: none)."""
    return max((number for number in entry.stored() if number <= max(targets)), default=0)


def _kept_rounds(keep: str | int, rounds: int) -> set[int]:
    """The rounds that `store.keep` asks to keep."""
    if keep == "all":
        return set(range(1, rounds + 1))
    last = 1 if keep == "last" else int(keep)
    return set(range(max(1, rounds - last + 1), rounds + 1))


def _space(specs: Specs, clients: int, rounds: int) -> int:
    """Bytes that so many more rounds take, with the two at work: clients' models, global one, the server's state."""
    return (rounds + 2) * (clients + 3) * size_of(specs)


def _train_until(training: _Training, target: int) -> Iterator[Metrics]:
    """Train from the nearest stored round before `target` to it; yields each round's metrics as it is on disk."""
    entry, rounds = training.entry, training.config.federation.rounds
    stored = entry.stored()
    start = max((number for number in stored if number < target), default=0)
    if stored and max(stored) > target:
        training.observe(RoundMissing(target, start))
    state = _State(0, training.initial, {}, ())
    if start:
        last = entry.read(start)
        state = _State(start, last.weights(), last.next_server_state(), last.history)
    while state.number < target:
        try:
            trained = _train_round(training, state)
        except OSError as error:
            raise RunError(f"round {state.number + 1} could not be stored in {entry.folder} ({error})") from error
        entry.drop(below=trained.number)
        training.observe(RoundFinished(trained.number, rounds, trained.metrics))
        yield trained.metrics
        state = _State(trained.number, trained.weights(), trained.next_server_state(), trained.history)


def _train_round(training: _Training, state: _State) -> Round:
    """One round: choose clients, train them, fuse, evaluate, store."""
    config, site = training.config, training.site
    number, began = state.number + 1, time.perf_counter()
    positions = choose_clients(len(site.data.clients), config.federation.clients_per_round, config.seed, number)
    clients = [site.data.clients[position] for position in positions]
    examples = [len(client.labels) for client in clients]
    training.observe(RoundStarted(number, config.federation.rounds, tuple(client.id for client in clients)))

    _publish(site, state.weights)
    temporary = begin_round(training.entry.rounds, number, specs_of(state.weights), len(clients))
    # The largest first: the last to finish then keeps the others waiting for the shortest time.
    order = sorted(range(len(clients)), key=lambda slot: -examples[slot])
    file = str(temporary / CLIENTS)
    losses = dict.fromkeys(range(len(clients)), 0.0)
    for done, (loss,) in training.perform([TrainTask(number, positions[slot], file, slot) for slot in order]):
        slot = order[done]
        losses[slot] = loss
        training.observe(ClientFinished(number, clients[slot].id, examples[slot], loss))

    with one_thread():
        stack = open_tensors(temporary / CLIENTS)
        steps = [local_steps(count, config.federation) for count in examples]
        returned = Returned(state.weights, stack, examples, steps, training.buffers)
        fused = fuse(config.fusion, returned, state.server)
    _publish(site, fused.weights)
    loss, accuracy = _evaluate(training)
    train_loss = sum(losses[slot] * count for slot, count in enumerate(examples)) / sum(examples)
    metrics = Metrics(number, loss, accuracy, train_loss, len(clients), round(time.perf_counter() - began, 4))
    return commit_round(
        temporary,
        number,
        clients=[client.id for client in clients],
        examples=examples,
        weights=fused.weights,
        previous=state.weights,
        state=state.server,
        next_state=fused.state,
        decomposition=fused.decomposition,
        buffers=training.buffers,
        history=[*state.history, metrics],
    )


def _publish(site: Site, weights: Mapping[str, Tensor]) -> None:
    """Give the workers these global weights; none is at work meanwhile."""
    for name, tensor in site.published.items():
        tensor.copy_(weights[name])


def _evaluate(training: _Training) -> tuple[float, float]:
    """Mean cross entropy and accuracy of the published weights on the server's test set."""
    count = len(training.site.data.test.labels)
    chunks = [EvaluateTask(chunk) for chunk in range(-(-count // CHUNK))]
    results = sorted(training.perform(chunks))  # summed in the order of the chunks, whoever was first
    return sum(loss for _, (loss, _) in results) / count, sum(correct for _, (_, correct) in results) / count
