"""Train a federation round by round, or find its rounds in the cache."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..config import schema
from ..data.federated import FederatedData
from ..errors import InputError, RunError
from ..fusion.adapters import merged_bytes
from ..processes import available_cores
from ..store.cache import Entry, open_entry, require_space
from ..store.rounds import Metrics, Round, has_lineage
from ..store.tensorfile import Specs, size_of, specs_of
from .engine import engine
from .events import RoundFinished, RoundMissing, RoundsPlaced, RoundsReused, TrainingEnded, WaitingForProcess
from .flower.engine import flower
from .key import training_key
from .participation import Roster, rosters
from .private import has_private, tidy_private
from .round import Observe, State, Training, state_after, train_round
from .sharing import check_products, sharing_of
from .site import make_site, shared_tensors


@contextmanager
def federated_rounds(
    config: schema.Config,
    data: FederatedData,
    model: nn.Module,
    cache: Path,
    wanted: set[int],
    device: torch.device,
    observe: Observe,
    logs: Path | None = None,
    workers: int | None = None,
    evaluated: Collection[int] | None = None,
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
        logs: folder for what an engine itself has to say; None: beside the rounds, in the cache.
        workers: 0: train in this process, whatever the engine; None: as many as `engine.workers` says.
        evaluated: rounds whose loss and accuracy are wanted, NaN for the others; None: all, and rounds that were
            stored without are trained again.

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
    sharing = sharing_of(model, federation, config.model.adapter)
    if sharing.private and config.engine.name == "flower" and config.engine.address is not None:
        raise InputError(
            f"engine.address={config.engine.address}: what is private to clients ({sharing.private[0]}, …) stays on "
            "this machine: engine.address=null, or a federation.share that leaves nothing private"
        )
    if sharing.private and federation.mode != "sync":
        raise InputError(
            f"federation.mode={federation.mode}: what is private to clients ({sharing.private[0]}, …) is kept round by "
            "round: federation.mode=sync, or a federation.share that leaves nothing private"
        )
    check_products(config.fusion, sharing, model)
    tensors = model.state_dict()
    initial = {name: tensors[name].detach().cpu().clone() for name in sharing.shared}
    kept_apart = specs_of({name: tensors[name] for name in sharing.private})
    clients = [client.id for client in data.clients]
    roster = rosters(
        federation, clients, [len(client.labels) for client in data.clients], config.seed, federation.rounds
    )
    decay = config.provenance.lineage_decay if config.provenance.scope == "lineage" else None
    key, description = training_key(config, data, model, device)
    targets = wanted | {federation.rounds}
    kept = wanted | _kept_rounds(config.store.keep, federation.rounds)
    with open_entry(cache, key, description, config.store.max_gb, config.store.lock) as entry:
        entry.keep(kept)
        observe(RoundsPlaced(entry.rounds))
        needs = _Needs(decay, bool(sharing.private), evaluated)
        stored = {number for number in entry.stored() if needs.met_by(entry, number)}
        hands = 0  # where all is there
        if not targets <= stored:
            widest = max(len(plan.trained) + len(plan.arriving) for plan in roster)
            needed = _space(config, specs_of(initial), _models_a_round(roster), len(clients), len(kept - stored))
            needed += (len(kept - stored) + 2) * len(clients) * size_of(kept_apart)
            require_space(entry.folder, needed)
            hands = min(config.engine.workers or available_cores(), widest) if workers is None else workers
        site = make_site(config, data, copy.deepcopy(model).to(device), shared_tensors(specs_of(initial)))
        here = not hands or config.engine.name == "local"  # nothing to train needs no other engine
        with (
            engine(site, hands) if here else flower(config, site, hands, key, device, logs or entry.folder, observe)
        ) as perform:
            training = Training(config, site, perform, entry, initial, tuple(roster), decay, observe, evaluated)
            rounds = _rounds(training, needs, wanted, targets)
            try:
                yield rounds
            finally:
                rounds.close()


@dataclass(frozen=True)
class _Needs:
    """What rounds on disk have to have, to do: accumulators with a `decay` (None: none), what clients keep to
    themselves, the accuracy of the rounds that are to be `evaluated` (None: all) up to them."""

    decay: float | None
    private: bool
    evaluated: Collection[int] | None

    def met_by(self, entry: Entry, number: int) -> bool:
        """Whether a round on disk will do; one that is damaged too, which is said where it is read."""
        history: Sequence[Metrics] = ()
        try:
            stored = entry.read(number)
            if not has_lineage(stored, self.decay):
                return False
            history = stored.history
        except RunError:
            if self.decay is not None:  # whether it has the accumulators has to be known
                raise
        wanted = (each for each in history if self.evaluated is None or each.round in self.evaluated)
        known = all(math.isfinite(each.accuracy) for each in wanted)
        return known and (not self.private or has_private(entry.folder, number))


def _rounds(training: Training, needs: _Needs, wanted: set[int], targets: set[int]) -> Generator[Round]:
    """Yield the wanted rounds, training up to each target that is not on disk."""
    entry, observe = training.entry, training.observe
    spent: dict[int, float] = {}  # seconds by round trained here
    reused = _nearest(entry, needs, max(targets))
    if reused:
        history = entry.read(reused).history
        observe(RoundsReused(reused, sum(metrics.seconds for metrics in history), history))
    for target in sorted(targets):
        with entry.training(
            until=lambda target=target: target in entry.stored() and needs.met_by(entry, target),  # type: ignore[misc]
            waiting=lambda: observe(WaitingForProcess(entry.folder)),
        ) as ours:
            if ours:
                for metrics in _train_until(training, needs, target):
                    spent[metrics.round] = metrics.seconds
        stored = entry.read(target)
        if target == max(targets):
            entry.tidy(below=target)
            cached = sum(metrics.seconds for metrics in stored.history if metrics.round not in spent)
            observe(TrainingEnded(len(spent), sum(spent.values()), cached))
        if target in wanted:
            yield stored


def _nearest(entry: Entry, needs: _Needs, target: int) -> int:
    """The last round on disk up to `target` that will do; 0: there is none."""
    before = (number for number in reversed(entry.stored()) if number <= target)
    return next((number for number in before if needs.met_by(entry, number)), 0)


def _kept_rounds(keep: str | int, rounds: int) -> set[int]:
    """The rounds that `store.keep` asks to keep."""
    if keep == "all":
        return set(range(1, rounds + 1))
    last = 1 if keep == "last" else int(keep)
    return set(range(max(1, rounds - last + 1), rounds + 1))


def _models_a_round(rosters: Sequence[Roster]) -> int:
    """Clients' models that the folder of a round holds at most, late work and what it started from included."""
    waiting = most = 0
    for plan in rosters:
        waiting += sum(participant.delay > 0 for participant in plan.trained) - len(plan.arriving)
        most = max(most, len(plan.trained) + 2 * (len(plan.arriving) + waiting))
    return most


def _space(config: schema.Config, specs: Specs, a_round: int, clients: int, rounds: int) -> int:
    """Bytes that so many more rounds take, with the two at work.

    The models of the clients in a round, the global one and the server's state; for each of all `clients` its control
    variate; what clients sent over all rounds, weighted and not, with the server's momentum of each: of all in every
    round, or where only a round's own clients move, of these and of as many again, and all of them once; factors of
    adapters that all rounds have summed.
    """
    controls = 0 if config.fusion.client_state is None else clients
    merged = 0
    if config.fusion.sums_products:  # of all rounds that there will have been
        shapes = {name: shape for name, (_, shape) in specs.items()}
        merged = merged_bytes(
            shapes, a_round * config.federation.rounds, max(kind.itemsize for kind, _ in specs.values())
        )
    lineage, once = 0, 0
    if config.provenance.scope == "lineage":
        moves = bool(config.fusion.decay) or config.provenance.lineage_decay < 1
        lineage = (4 if config.fusion.decay else 2) * (clients if moves else min(clients, 2 * a_round))
        once = 0 if moves else 2 * clients
    return (rounds + 2) * ((a_round + 3 + controls + lineage) * size_of(specs) + merged) + once * size_of(specs)


def _train_until(training: Training, needs: _Needs, target: int) -> Iterator[Metrics]:
    """Train from the nearest stored round before `target` to it; yields each round's metrics as it is on disk."""
    entry, rounds = training.entry, training.config.federation.rounds
    start = _nearest(entry, needs, target - 1)
    if any(number > target and needs.met_by(entry, number) for number in entry.stored()):
        training.observe(RoundMissing(target, start))
    state = state_after(entry.read(start)) if start else State(0, training.initial, {}, ())
    while state.number < target:
        try:
            trained = train_round(training, state)
        except OSError as error:
            raise RunError(f"round {state.number + 1} could not be stored in {entry.folder} ({error})") from error
        entry.drop(below=trained.number)
        if training.site.private:
            tidy_private(entry.folder, entry.stored())
        training.observe(RoundFinished(trained.number, rounds, trained.metrics))
        yield trained.metrics
        state = state_after(trained)
