"""Where tasks are performed: on worker processes forked once, one torch thread each, or in this process.

Both give the same numbers: a task depends on nothing but itself and the published global weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from ..processes import can_fork, one_thread
from .forked import forked
from .site import Site, Task, TrainTask

Result = tuple[float, ...] | None
Perform = Callable[[Sequence[Task]], Iterator[tuple[int, Result]]]
"""Performs tasks, in their order as far as there are hands; yields (position of the task, its result) as they end.

A result is None where a client has returned nothing and so drops out of its round.
"""


@contextmanager
def engine(site: Site, workers: int) -> Iterator[Perform]:
    """Hands for the tasks of a federation: forked workers for a model on the CPU, otherwise (or 0) this process.

    Enter it before any thread is started. On the way out the workers are gone, whatever they were doing.
    """
    if workers and next(site.model.parameters()).device.type == "cpu" and can_fork():
        with forked(site.perform, workers, _doing, "engine.workers=1") as perform:
            yield perform
    else:
        yield lambda tasks: perform_here(site, tasks)


def perform_here(site: Site, tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
    """Perform tasks in this process, one after the other."""
    device = next(site.model.parameters()).device
    # Of no GPU that is not used: a forked process cannot even ask one for its generator.
    devices = [device] if device.type == "cuda" else []
    for position, task in enumerate(tasks):
        with one_thread(), torch.random.fork_rng(devices):
            result = site.perform(task)
        yield position, result


def _doing(task: Task) -> str:
    return f"in round {task.round}" if isinstance(task, TrainTask) else "during the evaluation"
