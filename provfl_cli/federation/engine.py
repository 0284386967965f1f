"""Where tasks are performed: on worker processes forked once, one torch thread each, or in this process.

Both give the same numbers: a task depends on nothing but itself and the published global weights.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from ..errors import RunError
from ..processes import can_fork, die_with, one_thread
from .site import EvaluateTask, Site, Task, TrainTask

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
        with _forked(site, workers) as perform:
            yield perform
    else:
        yield lambda tasks: perform_here(site, tasks)


def perform_here(site: Site, tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
    """Perform tasks in this process, one after the other."""
    for position, task in enumerate(tasks):
        with one_thread(), torch.random.fork_rng():
            result = site.perform(task)
        yield position, result


@dataclass(frozen=True, eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection


@contextmanager
def _forked(site: Site, count: int) -> Iterator[Perform]:
    context = multiprocessing.get_context("fork")
    library = ctypes.CDLL(None)  # loaded before the fork: a child should do as little as possible
    workers: list[_Worker] = []
    try:
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(site, theirs, os.getpid(), library), name=f"provfl-worker-{number}", daemon=True
            )
            process.start()
            theirs.close()
            workers.append(_Worker(process, ours))
        yield lambda tasks: _perform_there(workers, tasks)
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.pipe.close()


def _perform_there(workers: list[_Worker], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
    waiting = deque(enumerate(tasks))
    idle = list(workers)
    busy: dict[_Worker, int] = {}
    while waiting or busy:
        while waiting and idle:
            worker = idle.pop()
            position, task = waiting.popleft()
            busy[worker] = position
            with suppress(BrokenPipeError):  # dead: found out below
                worker.pipe.send_bytes(json.dumps([type(task).__name__, asdict(task)]).encode())
        ready = wait([end for worker in busy for end in (worker.pipe, worker.process.sentinel)])
        for worker in [worker for worker in busy if worker.pipe in ready or worker.process.sentinel in ready]:
            try:
                answer = json.loads(worker.pipe.recv_bytes()) if worker.pipe.poll() else None
            except (EOFError, OSError):
                answer = None
            if answer is None:
                raise RunError(_epitaph(worker, tasks[busy[worker]]))
            if isinstance(answer, str):
                raise RunError(answer)
            yield busy.pop(worker), tuple(answer)
            idle.append(worker)


def _epitaph(worker: _Worker, task: Task) -> str:
    worker.process.join(1)
    code = worker.process.exitcode
    cause = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    doing = f"in round {task.round}" if isinstance(task, TrainTask) else "during the evaluation"
    hint = "; if memory ran out, try engine.workers=1 or a smaller federation.batch_size" if cause == "SIGKILL" else ""
    return f"a worker process died {doing} ({cause}){hint}; the same command continues from the last whole round"


def _work(site: Site, pipe: Connection, parent: int, library: ctypes.CDLL) -> None:
    """Life of a worker: perform what comes through the pipe, until killed; die with the parent."""
    die_with(parent, library)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to all processes of a job: the parent ends its workers
    torch.set_num_threads(1)
    while True:
        kind, fields = json.loads(pipe.recv_bytes())
        task: Task = TrainTask(**fields) if kind == "TrainTask" else EvaluateTask(**fields)
        try:
            answer: list[float] | str = list(site.perform(task))
        except RunError as error:
            answer = str(error)
        except Exception as error:
            answer = f"{kind} failed: {type(error).__name__}: {error}"
        pipe.send_bytes(json.dumps(answer).encode())
