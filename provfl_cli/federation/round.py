"""One round: its clients train, their work is fused, the new global model is evaluated, and all of it is stored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..config import schema
from ..errors import RunError
from ..fusion.adapters import fresh
from ..fusion.adapters import merged as merged_factors
from ..fusion.buffered import Buffered, staleness_weight
from ..fusion.fuse import FusionResult, fuse
from ..fusion.lineage import NextLineage, next_lineage
from ..fusion.updates import ReturnedModels
from ..processes import one_thread
from ..store.cache import Entry
from ..store.new_round import begin_round, commit_round
from ..store.rounds import CLIENTS, NEXT_STATE, Metrics, Round
from ..store.tensorfile import keep_slots, open_tensors, specs_of, write_slot, write_tensors
from .client import fused_steps
from .controls import begin_controls, end_controls, write_corrections
from .engine import Perform
from .events import ClientFinished, Event, RoundStarted
from .late import arrived, begin_late, end_late, outstanding
from .loss import weights_of
from .optimizers import total_rate
from .participation import FEWEST, Roster, without
from .private import begin_private, end_private
from .site import CHUNK, EvaluateTask, Site, TrainTask

Observe = Callable[[Event], None]


@dataclass(frozen=True)
class Training:
    """What stays the same over the rounds of one federation.

    `rosters`: who does what in rounds 1, 2, …; `lineage_decay`: of the accumulators over all rounds, None where these
    are not asked for; `evaluated`: the rounds whose loss and accuracy are wanted, None: all.
    """

    config: schema.Config
    site: Site
    perform: Perform
    entry: Entry
    initial: Mapping[str, Tensor]
    rosters: tuple[Roster, ...]
    lineage_decay: float | None
    observe: Observe
    evaluated: Collection[int] | None = None


@dataclass(frozen=True)
class State:
    """Where the server stands after a round; round 0, which is not stored, is the initial model."""

    number: int
    weights: Mapping[str, Tensor]
    server: Mapping[str, Tensor]
    history: tuple[Metrics, ...]
    stored: Round | None = None

    @property
    def folder(self) -> Path | None:
        """Where the round is stored."""
        return None if self.stored is None else self.stored.folder


def state_after(stored: Round) -> State:
    """Where the server stands after a stored round."""
    return State(stored.number, stored.as_sent().weights(), stored.next_server_state(), stored.history, stored)


def train_round(training: Training, state: State) -> Round:
    """Train, fuse, evaluate and store the round after `state`."""
    config, site = training.config, training.site
    number, began = state.number + 1, time.perf_counter()
    roster = rosters_after(training.rosters, site, state.history)[number - 1]
    clients = [site.data.clients[work.position] for work in roster.fused]
    if not clients:
        raise RunError(f"round {number}: the clients whose work was to be fused in it have all failed")
    training.observe(RoundStarted(number, config.federation.rounds, tuple(client.id for client in clients)))

    publish(site, state.weights)
    private = begin_private(training.entry.folder, number) if site.private else None
    temporary = begin_round(training.entry.rounds, number, specs_of(state.weights), len(clients))
    losses = _train_clients(training, state, roster, temporary, private)
    failed = sorted(participant.position for participant in roster.trained if participant.position not in losses)
    if failed:
        roster = _without(training, roster, failed, temporary)
        clients = [site.data.clients[work.position] for work in roster.fused]
    bases = _take_in(state, roster, temporary)
    with one_thread():
        fused, server = _fuse(training, state, roster, temporary, bases)
    publish(site, fused.weights)
    merged = str(temporary / NEXT_STATE) if config.fusion.sums_products else None
    loss, accuracy = math.nan, math.nan
    if training.evaluated is None or number in training.evaluated:
        loss, accuracy = _evaluate(training, private, merged)
    metrics = Metrics(
        number,
        loss,
        accuracy,
        _mean_loss(training, state, losses),
        len(clients),
        round(time.perf_counter() - began, 4),
        tuple(site.data.clients[position].id for position in failed),
    )
    if private is not None:
        end_private(private, training.entry.folder, number)
    with one_thread():
        return commit_round(
            temporary,
            number,
            clients=[client.id for client in clients],
            examples=[len(client.labels) for client in clients],
            weights=fused.weights,
            previous=state.weights,
            state=state.server,
            next_state=server,
            decomposition=fused.decomposition,
            buffers=site.buffers,
            history=[*state.history, metrics],
            bases=bases,
            lineage=_lineage(training, state, fused, [client.id for client in clients]),
            buffered=_buffered(config.federation, roster),
            key=training.entry.key,
        )


def rosters_after(rosters: Sequence[Roster], site: Site, history: Sequence[Metrics]) -> list[Roster]:
    """The rosters, knowing who failed in the rounds that there were."""
    positions = {client.id: position for position, client in enumerate(site.data.clients)}
    return without(
        rosters,
        {metrics.round: [positions[client] for client in metrics.failed] for metrics in history if metrics.failed},
    )


def _without(training: Training, roster: Roster, failed: Sequence[int], temporary: Path) -> Roster:
    """The roster of a round in which these positions returned nothing; the stack then has no slots for them.

    Raises:
        RunError: too few are left.
    """
    (left,) = without([roster], {roster.number: failed})
    count = len(training.site.data.clients)
    fewest = min(FEWEST, training.config.federation.clients_per_round or count, count)
    if len(left.fused) < fewest:
        raise RunError(
            f"round {roster.number}: the work of {len(left.fused)} clients is there to fuse, {len(failed)} failed: "
            f"at least {fewest} are needed"
        )
    slots = [slot for slot, work in enumerate(roster.fused) if work in left.fused]
    if len(slots) < len(roster.fused):
        keep_slots(temporary / CLIENTS, slots)
    return left


def publish(site: Site, weights: Mapping[str, Tensor]) -> None:
    """Give the workers these global weights; none is at work meanwhile."""
    for name, tensor in site.published.items():
        tensor.copy_(weights[name])


def _attacks(site: Site, position: int, number: int) -> bool:
    """Whether the client at a position attacks in round `number`."""
    return site.injection.attacks(site.data.clients[position].id, number)


def _attack_share(site: Site, roster: Roster) -> float:
    """What part of the examples behind a round's fusion the clients have that attack in it."""
    examples = {work.position: len(site.data.clients[work.position].labels) for work in roster.fused}
    attackers = sum(count for position, count in examples.items() if _attacks(site, position, roster.number))
    return attackers / max(sum(examples.values()), 1)


def _train_clients(
    training: Training, state: State, roster: Roster, temporary: Path, private: Path | None
) -> dict[int, float]:
    """Let everybody train who starts in this round; returns their training losses by position, of those who return."""
    config, site, specs = training.config, training.site, specs_of(state.weights)
    slots = {work.position: slot for slot, work in enumerate(roster.fused)}
    late = [participant.position for participant in roster.trained if participant.delay]
    fresh = str(begin_late(temporary, specs, len(late)))
    controls = None
    if config.fusion.client_state is not None:
        controls = begin_controls(temporary, state.folder, _shared(site), len(site.data.clients))
    merged = None
    if config.fusion.sums_products and state.folder is not None:
        merged = str(state.folder / NEXT_STATE)
    attack = _attack_share(site, roster)
    # The largest first: the last to finish then keeps the others waiting for the shortest time.
    everybody = sorted(
        roster.trained,
        key=lambda participant: -len(site.data.clients[participant.position].labels) * participant.epochs,
    )
    tasks = [
        TrainTask(
            roster.number,
            participant.position,
            fresh if participant.delay else str(temporary / CLIENTS),
            late.index(participant.position) if participant.delay else slots[participant.position],
            participant.epochs,
            controls,
            None if private is None else str(private),
            merged,
            attack if _attacks(site, participant.position, roster.number) else None,
        )
        for participant in everybody
    ]
    losses = dict[int, float]()
    for done, result in training.perform(tasks) if tasks else ():
        if result is None:
            continue
        client = site.data.clients[tasks[done].position]
        (losses[tasks[done].position],) = result
        training.observe(ClientFinished(roster.number, client.id, len(client.labels), result[0]))
    return losses


def _mean_loss(training: Training, state: State, losses: Mapping[int, float]) -> float:
    """Mean training loss by examples; that of the round before where nobody started: all that is fused is late work."""
    # Summed in the order of the clients, whoever was first.
    counts = {position: len(training.site.data.clients[position].labels) for position in sorted(losses)}
    if not counts:
        return state.history[-1].train_loss
    return sum(losses[position] * count for position, count in counts.items()) / sum(counts.values())


def _take_in(state: State, roster: Roster, temporary: Path) -> dict[int, Mapping[str, Tensor]]:
    """Put late work that arrives beside that of this round; returns what it started from, by position in the stack."""
    bases: dict[int, Mapping[str, Tensor]] = {}
    for slot, work in enumerate(roster.fused):
        if work.from_round < roster.number:
            weights, bases[slot] = arrived(state.folder, work, list(state.weights))
            write_slot(temporary / CLIENTS, weights, slot)
    return bases


def _fuse(
    training: Training, state: State, roster: Roster, temporary: Path, bases: Mapping[int, Mapping[str, Tensor]]
) -> tuple[FusionResult, dict[str, Tensor]]:
    """The new global model, and what the server and late clients carry into the next round."""
    config, site, number = training.config, training.site, roster.number
    examples = [len(site.data.clients[work.position].labels) for work in roster.fused]
    returned = ReturnedModels(
        previous=state.weights,
        clients=open_tensors(temporary / CLIENTS),
        examples=examples,
        steps=fused_steps(roster, examples, config.federation),
        buffers=site.buffers,
        bases=bases,
        buffered=_buffered(config.federation, roster),
    )
    counted, updates = config.privacy.clipped(returned, state.server)
    noise = config.privacy.noise(counted, state.server, config.seed, number)
    fused = fuse(config.fusion, counted, state.server, updates, noise)
    server = fused.state | config.privacy.next_state(updates, state.server, config.seed, number)
    client_state = config.fusion.client_state
    if client_state is not None:
        shares = client_state.control_shares([len(client.labels) for client in site.data.clients])
        positions = [work.position for work in roster.fused]
        server |= end_controls(temporary, state.folder, state.server, positions, shares)
        turns = zip(roster.fused, returned.steps, strict=True)
        rates = [total_rate(config.federation, work.from_round, steps) for work, steps in turns]
        write_corrections(client_state, temporary, state.folder, number, positions, rates)
    if config.fusion.sums_products:
        server |= merged_factors(state.server, fused.weights)
        write_tensors(temporary / NEXT_STATE, server)  # already here: the model is evaluated with it
        fused = replace(fused, weights=fresh(fused.weights, state.weights, config.seed, number + 1))
    # Slots were given to all who should have been late; of those who failed nothing is outstanding.
    late = [participant.position for participant in training.rosters[number - 1].trained if participant.delay]
    there = [*rosters_after(training.rosters, site, state.history)[: number - 1], roster]
    end_late(temporary, state.folder, outstanding(there, number), late, number, state.weights)
    return fused, server


def _buffered(federation: schema.Federation, roster: Roster) -> Buffered | None:
    """How the updates of an asynchronous federation's buffer count; None in a synchronous one."""
    if federation.mode == "sync":
        return None
    strength, grace = federation.staleness_strength, federation.staleness_grace
    staleness = tuple(roster.number - work.from_round for work in roster.fused)
    weights = tuple(staleness_weight(federation.staleness, late, strength, grace) for late in staleness)
    return Buffered(staleness, weights, federation.server_rate, federation.update_weights == "equal")


def _lineage(training: Training, state: State, fused: FusionResult, clients: Iterable[int]) -> NextLineage | None:
    """The accumulators over all rounds, where these are asked for."""
    if training.lineage_decay is None:
        return None
    before = None if state.stored is None else state.stored.lineage()
    return next_lineage(training.config.fusion, fused, list(clients), state.number + 1, before, training.lineage_decay)


def _shared(site: Site) -> dict[str, Tensor]:
    """The trained weights that are shared."""
    return {name: weight.detach() for name, weight in site.shared_weights().items()}


def _evaluate(training: Training, private: Path | None, merged: str | None) -> tuple[float, float]:
    """Mean cross entropy and accuracy of the published weights on the server's test set.

    Where clients keep tensors for themselves, in the folder `private`, each has a model of its own: the mean over all
    clients by their examples. `merged` as of `EvaluateTask`.
    """
    count = len(training.site.data.evaluated.labels)
    chunks = [EvaluateTask(chunk, merged=merged) for chunk in range(-(-count // CHUNK))]
    if private is not None:
        return _evaluate_clients(training, private, len(chunks), count, merged)
    # Summed in the order of the chunks, whoever was first; a chunk does not fail without ending the run.
    results = [result for _, result in sorted(training.perform(chunks)) if result is not None]
    said = _said(training)
    return sum(loss for loss, _ in results) / said, sum(correct for _, correct in results) / count


def _said(training: Training) -> int:
    """What the mean cross entropy of the test set is over: its examples, or all tokens of its responses."""
    return int(weights_of(training.site.data.evaluated.inputs).sum())


def _evaluate_clients(
    training: Training, private: Path, chunks: int, count: int, merged: str | None
) -> tuple[float, float]:
    """The same of every client's own model, averaged by their examples."""
    clients = training.site.data.clients
    tasks = [
        EvaluateTask(chunk, position, str(private), merged)
        for position, _ in enumerate(clients)
        for chunk in range(chunks)
    ]
    total, loss, accuracy, said = sum(len(client.labels) for client in clients), 0.0, 0.0, _said(training)
    for number, result in sorted(training.perform(tasks)):
        assert result is not None  # an evaluation does not fail without ending the run
        share = len(clients[tasks[number].position].labels) / total
        loss, accuracy = loss + share * result[0] / said, accuracy + share * result[1] / count
    return loss, accuracy
