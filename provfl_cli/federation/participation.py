"""Who takes part in which round: chosen, dropped out, late, with less work, joined, left.

Everything is drawn from the run's seed, the round's number and what the draw is for, so that the rounds of a federation
can be told from its settings alone: resuming or reading a cache needs no state, and a longer run begins as a shorter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from ..config import schema
from ..config.asynchronous import Asynchronous
from ..errors import InputError
from ..seeds import generator
from .buffers import buffers

FEWEST = 2  # clients whose work is fused in a round
NEVER = np.iinfo(np.int64).max

PARTICIPATION = (
    "sampling",
    "go_offline",
    "come_online",
    "dropout",
    "stragglers",
    "straggler_work",
    "straggler_delay",
    "joins",
    "leaves",
    *(setting.name for setting in fields(Asynchronous)),
)


@dataclass(frozen=True)
class Participant:
    """A client that starts in a round from that round's global model.

    Attributes:
        position: of the client among those kept.
        epochs: passes over its data that it makes; fewer than `local_epochs` where it does part of the work.
        delay: rounds until its work is fused; 0: in the round in which it starts.
    """

    position: int
    epochs: int
    delay: int = 0


@dataclass(frozen=True)
class Arrival:
    """Work that is there to be fused: of the client at `position`, who started in round `from_round`."""

    position: int
    from_round: int


@dataclass(frozen=True)
class Roster:
    """Who does what in round `number`; positions are those among the clients kept, ascending.

    Attributes:
        trained: who starts in this round and returns something, late ones included.
        arriving: late work of earlier rounds, fused in this one.
        dropped: who was chosen and returns nothing.
    """

    number: int
    trained: tuple[Participant, ...]
    arriving: tuple[Arrival, ...] = ()
    dropped: tuple[int, ...] = ()

    @property
    def fused(self) -> tuple[Arrival, ...]:
        """All work that is fused in this round, by position: what is started in it and in time, and what arrives."""
        in_time = [Arrival(participant.position, self.number) for participant in self.trained if not participant.delay]
        return tuple(sorted([*in_time, *self.arriving], key=lambda work: work.position))


def without(rosters: Sequence[Roster], failed: Mapping[int, Collection[int]]) -> list[Roster]:
    """The rosters as they came out, where clients that should have trained returned nothing.

    Args:
        rosters: who was to do what.
        failed: by round, the positions of those that returned nothing; in a later round nothing of theirs arrives.
    """
    return [
        replace(
            roster,
            trained=tuple(
                participant
                for participant in roster.trained
                if participant.position not in failed.get(roster.number, ())
            ),
            arriving=tuple(work for work in roster.arriving if work.position not in failed.get(work.from_round, ())),
            dropped=tuple(sorted({*roster.dropped, *failed.get(roster.number, ())})),
        )
        for roster in rosters
    ]


def settings_that_matter(federation: schema.Federation) -> dict[str, object]:
    """The participation settings that change who takes part, for the name of a federation in the cache.

    Those of something that is switched off are left out; with the defaults there are none.
    """
    names = [name for name in ("dropout", "stragglers", "joins", "leaves") if getattr(federation, name)]
    if federation.sampling != "uniform":
        names += ["sampling", *(("go_offline", "come_online") if federation.sampling == "markov" else ())]
    if federation.stragglers:
        names += ["straggler_work", *(("straggler_delay",) if federation.straggler_work == "late" else ())]
    if federation.mode == "fedbuff":
        without = {"constant": ["staleness_strength", "staleness_grace"], "polynomial": ["staleness_grace"]}
        unused = [*without.get(federation.staleness, ()), *(["speed_spread"] if federation.speeds == "equal" else ())]
        names += [setting.name for setting in fields(Asynchronous) if setting.name not in unused]
    return {name: getattr(federation, name) for name in names}


def choose_clients(
    available: int, wanted: int | None, seed: int, number: int, ready: np.ndarray | None = None
) -> list[int]:
    """Positions of the clients that are chosen in round `number`, ascending: `wanted` of those `available`, or all.

    Every set of that size is equally likely. `ready` is a mask `[available]` of those that can be chosen at all; of
    fewer than `wanted` all are.
    """
    candidates = available if ready is None else int(ready.sum())
    if wanted is None or wanted >= candidates:
        return list(range(available)) if ready is None else np.flatnonzero(ready).tolist()
    order = _shuffled(available, seed, number)
    return sorted((order if ready is None else order[ready[order]])[:wanted].tolist())


def rosters(
    federation: schema.Federation, ids: Sequence[int], examples: Sequence[int], seed: int, until: int
) -> list[Roster]:
    """Who does what in rounds 1 to `until`. Round `r` is the same whatever `until` is.

    In each round `clients_per_round` clients (all, if null; fewer, if no more are there) are chosen among those that
    have joined, have not left and have no late work outstanding (work that arrives in a round is outstanding in it):

    - `uniform`: every set of them equally likely.
    - `weighted`: one after the other without replacement, by number of examples (Efraimidis & Spirakis 2006).
    - `round_robin`: the front of a queue, in the order of their numbers at first; who was chosen goes to its end.
    - `markov`: uniformly among those that are online. Each client is a chain of its own: online goes offline with
      probability `go_offline`, offline comes online with `come_online`; the first state is drawn from what these tend
      to. Where fewer than two are online, the server waits for others, drawn uniformly.

    Of the chosen, `stragglers` (a share, rounded up or down at random so that it holds on average) are slow: they do
    1 to `local_epochs` - 1 passes, each number equally likely (`partial`), or their work is fused `straggler_delay`
    rounds later (`late`); it is lost where that is after the client's or the federation's last round. Each of the
    chosen returns nothing with probability `dropout`, slow or not.

    At least two clients' work is there to fuse in every round (one with `clients_per_round=1`). Nothing is drawn again
    for that: of the dropouts the nearest to staying (those with the largest numbers drawn) stay, as many as are needed,
    and of the late ones only so many are late that enough work is left in this round, and enough clients until theirs
    arrives.

    Under `mode=fedbuff` a round is the time from one full buffer to the next (`buffers`): who starts in it trains from
    the same model, and is late where its update is in a later buffer; who is dropped will be too stale.

    Args:
        federation: the settings.
        ids: numbers of the clients kept, ascending.
        examples: training examples of each.
        seed: the run's.
        until: the last round.

    Raises:
        InputError: `joins` or `leaves` name a client that partitioning dropped, or leave fewer than two in a round.
    """
    count, wanted = len(ids), min(federation.clients_per_round or len(ids), len(ids))
    if federation.mode == "fedbuff":
        return _by_speed(federation, examples, seed, until)
    fewest = min(FEWEST, wanted)
    first, last = _membership(federation, ids)
    online = _online(federation, count, seed) if federation.sampling == "markov" else None
    queue = np.arange(count)  # of round_robin
    due = np.zeros(count, dtype=np.int64)  # the round in which a client's last late work arrives
    started = np.zeros(count, dtype=np.int64)  # the round in which it was started
    usual = [Participant(position, federation.local_epochs) for position in range(count)]
    planned = []
    for number in range(1, until + 1):
        present = (first <= number) & (number <= last)
        if present.sum() < fewest:
            raise InputError(_too_few(ids, present, number))
        ready = present & (due < number)
        if online is not None:
            ready = _at_least(fewest, ready & next(online), ready, seed, number)
        match federation.sampling:
            case "weighted":
                chosen = _by_examples(examples, wanted, ready, seed, number)
            case "round_robin":
                chosen = sorted(queue[ready[queue]][:wanted].tolist())
                taken = np.isin(queue, chosen)
                queue = np.concatenate([queue[~taken], queue[taken]])
            case _:
                chosen = choose_clients(count, wanted, seed, number, ready)
        arriving = np.flatnonzero(present & (due == number)).tolist()
        arrivals = tuple(Arrival(k, int(started[k])) for k in arriving)
        dropped = _dropped(federation.dropout, chosen, fewest - len(arriving), count, seed, number)
        working = [position for position in chosen if position not in dropped]
        slow = [k for k in _slow(federation.stragglers, chosen, count, seed, number) if k not in dropped]
        others = dict[int, Participant]()
        if slow and federation.straggler_work == "partial":
            drawn = _uniform(count, seed, "epochs", number)
            others = {k: Participant(k, 1 + int(drawn[k] * (federation.local_epochs - 1))) for k in slow}
        elif slow:
            spare = len(working) + len(arriving) - fewest
            for later in range(number + 1, number + federation.straggler_delay + 1):
                there = (first <= later) & (later <= last) & (due < later)
                spare = min(spare, int(there.sum()) - fewest)
            late, delay = slow[: max(spare, 0)], federation.straggler_delay
            others = {k: Participant(k, federation.local_epochs, delay) for k in late}
            started[late], due[late] = number, number + delay
        planned.append(
            Roster(
                number,
                tuple(others.get(k, usual[k]) for k in working),
                arrivals,
                tuple(sorted(dropped)),
            )
        )
    return planned


def _by_speed(federation: schema.Federation, examples: Sequence[int], seed: int, until: int) -> list[Roster]:
    """The rosters of an asynchronous federation."""
    return [
        Roster(
            number,
            tuple(Participant(k, federation.local_epochs, delay) for k, delay in sorted(buffer.started.items())),
            tuple(Arrival(k, started) for k, started in sorted(buffer.arriving.items())),
            tuple(sorted(buffer.discarded)),
        )
        for number, buffer in enumerate(buffers(federation, examples, seed, until), 1)
    ]


def _membership(federation: schema.Federation, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last round in which each client is there, int64 `[clients]`."""
    rounds = (np.ones(len(ids), dtype=np.int64), np.full(len(ids), NEVER))
    for key, target in zip(("joins", "leaves"), rounds, strict=True):
        for client, number in (getattr(federation, key) or {}).items():
            if client not in ids:
                raise InputError(
                    f"federation.{key}: client {client} was dropped, it has too few examples: "
                    f"choose among {', '.join(map(str, ids))}"
                )
            target[ids.index(client)] = number
    return rounds


def _too_few(ids: Sequence[int], present: np.ndarray, number: int) -> str:
    there = [f"client {ids[position]}" for position in np.flatnonzero(present).tolist()]
    return (
        f"federation.joins and federation.leaves: {' and '.join(there) or 'no client'} alone would be there in round "
        f"{number}: let at least {FEWEST} be"
    )


def _uniform(count: int, seed: int, purpose: str, number: int) -> np.ndarray:
    """Numbers from 0 to 1, float64 `[count]`, drawn for a purpose in a round."""
    return torch.rand(count, dtype=torch.float64, generator=generator(seed, purpose, number)).numpy()


def _shuffled(count: int, seed: int, number: int) -> np.ndarray:
    return torch.randperm(count, generator=generator(seed, "choice", number)).numpy()


def _by_examples(examples: Sequence[int], wanted: int, ready: np.ndarray, seed: int, number: int) -> list[int]:
    """Drawn one after the other without replacement, each time by number of examples among those left.

    Efraimidis & Spirakis 2006, algorithm A: those with the largest `u_k ** (1 / n_k)`, here by its logarithm.
    """
    keys = np.log(_uniform(len(examples), seed, "weighted choice", number)) / np.asarray(examples)
    candidates = np.flatnonzero(ready)
    return sorted(candidates[np.argsort(-keys[candidates], kind="stable")[:wanted]].tolist())


def _online(federation: schema.Federation, count: int, seed: int) -> Iterator[np.ndarray]:
    """Who is online in rounds 1, 2, …: masks `[count]`."""
    leave, come = federation.go_offline, federation.come_online
    state = _uniform(count, seed, "online", 1) < come / (come + leave)
    number = 1
    while True:
        yield state
        number += 1
        drawn = _uniform(count, seed, "online", number)
        state = np.where(state, drawn >= leave, drawn < come)


def _at_least(fewest: int, wanted: np.ndarray, ready: np.ndarray, seed: int, number: int) -> np.ndarray:
    """The mask `wanted`, and others of those `ready` at random where these are too few."""
    missing = fewest - int(wanted.sum())
    if missing <= 0:
        return wanted
    order = _shuffled(len(ready), seed, number)
    filled = wanted.copy()
    filled[order[(ready & ~wanted)[order]][:missing]] = True
    return filled


def _dropped(share: float, chosen: Sequence[int], needed: int, count: int, seed: int, number: int) -> set[int]:
    """Who of the `chosen` returns nothing: each with probability `share`, but `needed` of them return something."""
    if not share:
        return set()
    drawn = _uniform(count, seed, "dropout", number)
    order = sorted(chosen, key=lambda position: drawn[position])
    allowed = order[: len(order) - max(needed, 0)]
    return {position for position in allowed if drawn[position] < share}


def _slow(share: float, chosen: Sequence[int], count: int, seed: int, number: int) -> list[int]:
    """Who of the `chosen` straggles, in a random order: `share` of them, on average exactly."""
    if not share:
        return []
    drawn = _uniform(count + 1, seed, "stragglers", number)
    order = sorted(chosen, key=lambda position: drawn[position])
    return order[: int(share * len(chosen) + drawn[count])]
