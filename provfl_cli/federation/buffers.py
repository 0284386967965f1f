"""The order of events of an asynchronous federation, by a simulated clock: who starts when, whose update comes when.

At time 0 `concurrency` clients start. Whenever an update arrives it enters the buffer; when this is full the server
fuses it, at that time. Then as many clients start as there are places free, each drawn uniformly among those that are
neither at work nor in the buffer, from the model that the server has at that time. So a client has at most one update
in a buffer: one that finished waits until its buffer is fused.

Time is counted in examples: a client takes `examples * slowness` for its work, `slowness` drawn once a client. It has
nothing to do with how long training takes here, so that results depend on the seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import torch

from ..config import schema
from ..seeds import generator


@dataclass(frozen=True)
class Buffer:
    """What happens from one fusion of the server to the next; clients by their position.

    Attributes:
        started: who starts in that time, from the model that the server then has, and how many more fusions there are
            until its update is fused: 0: it is in this buffer.
        arriving: whose updates from older models are in this buffer, and the round in which each started.
        discarded: who starts in that time and whose update will be too stale when it arrives.
    """

    started: dict[int, int] = field(default_factory=dict)
    arriving: dict[int, int] = field(default_factory=dict)
    discarded: list[int] = field(default_factory=list)


def durations(federation: schema.Federation, examples: Sequence[int], seed: int) -> list[float]:
    """Simulated time that each client takes for its work.

    `slowness` by `speeds`, with `spread` the setting: `equal` 1; `uniform` 1 to `1 + spread`; `half_normal`
    `1 + spread |N(0, 1)|`; `lognormal` `exp(spread N(0, 1))`.
    """
    source, spread, shape = generator(seed, "speeds"), federation.speed_spread, (len(examples),)
    match federation.speeds:
        case "uniform":
            slowness = 1 + spread * torch.rand(shape, dtype=torch.float64, generator=source)
        case "half_normal":
            slowness = 1 + spread * torch.randn(shape, dtype=torch.float64, generator=source).abs()
        case "lognormal":
            slowness = (spread * torch.randn(shape, dtype=torch.float64, generator=source)).exp()
        case _:
            slowness = torch.ones(shape, dtype=torch.float64)
    return (slowness * torch.tensor(list(examples), dtype=torch.float64)).tolist()


def buffers(federation: schema.Federation, examples: Sequence[int], seed: int, until: int) -> list[Buffer]:
    """What happens up to the fusion of buffer number `until`. Buffer `r` is the same whatever `until` is.

    Args:
        federation: the settings.
        examples: training examples of each client.
        seed: the run's.
        until: the last buffer.
    """
    count = len(examples)
    size = min(federation.clients_per_round or count, count)
    places, most = min(federation.concurrency or count, count), federation.max_staleness
    takes, draws = durations(federation, examples, seed), generator(seed, "buffer")
    made = [Buffer() for _ in range(until)]
    idle, buffer = list(range(count)), list[int]()
    work: list[tuple[float, int, int, int]] = []  # when it ends, its turn, client, the round in which it started
    now, turn, number, undecided = 0.0, 0, 1, 0
    # Beyond the last buffer only to know what becomes of those at work.
    while number <= until or (undecided and (most is None or number <= until + most)):
        while idle and len(work) < places:
            position = idle.pop(int(torch.randint(len(idle), (), generator=draws)))
            heappush(work, (now + takes[position], turn, position, number))
            turn, undecided = turn + 1, undecided + (number <= until)
        now, _, position, started = heappop(work)
        undecided -= started <= until
        if most is not None and number - started > most:
            if started <= until:
                made[started - 1].discarded.append(position)
            idle.append(position)
            continue
        if started <= until:
            made[started - 1].started[position] = number - started
        if started < number <= until:
            made[number - 1].arriving[position] = started
        buffer.append(position)
        if len(buffer) == size:
            idle += buffer
            buffer, number = [], number + 1
    for _, _, position, started in work:
        if started <= until:  # too stale already
            made[started - 1].discarded.append(position)
    return made
