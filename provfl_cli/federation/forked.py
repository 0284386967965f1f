"""Tasks on worker processes: forked once, they hold what they work with in memory, and end with who asks them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch

from ..errors import RunError
from ..processes import die_with

T = TypeVar("T")
A = TypeVar("A")


@dataclass(frozen=True, eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection


@contextmanager
def forked(
    perform: Callable[[T], A], count: int, doing: Callable[[T], str], fewer: str
) -> Iterator[Callable[[Sequence[T]], Iterator[tuple[int, A]]]]:
    """`count` workers with one torch thread each, and a function that hands tasks to them.

    It takes tasks and yields (position of the task, what `perform` made of it) as they end; tasks begin in their order.
    Enter it before any thread is started. On the way out the workers are gone, whatever they were doing.

    Args:
        perform: does a task, in a worker; tasks and answers are pickled, all else it has from the fork.
        count: of the workers.
        doing: what a task is, such as `in round 3`: said where a worker dies of it.
        fewer: what to set where memory ran out.

    Raises:
        RunError: a task has failed, or a worker has died.
    """
    context = multiprocessing.get_context("fork")
    library = ctypes.CDLL(None)  # loaded before the fork: a child should do as little as possible
    workers: list[_Worker] = []
    try:
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(perform, theirs, os.getpid(), library), name=f"provfl-worker-{number}", daemon=True
            )
            process.start()
            theirs.close()
            workers.append(_Worker(process, ours))
        yield lambda tasks: _perform_there(workers, tasks, doing, fewer)
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.pipe.close()


def _perform_there(
    workers: list[_Worker], tasks: Sequence[Any], doing: Callable[[Any], str], fewer: str
) -> Iterator[tuple[int, Any]]:
    waiting = deque(enumerate(tasks))
    idle = list(workers)
    busy: dict[_Worker, int] = {}
    while waiting or busy:
        while waiting and idle:
            worker = idle.pop()
            position, task = waiting.popleft()
            busy[worker] = position
            with suppress(BrokenPipeError):  # dead: found out below
                worker.pipe.send(task)
        ready = wait([end for worker in busy for end in (worker.pipe, worker.process.sentinel)])
        for worker in [worker for worker in busy if worker.pipe in ready or worker.process.sentinel in ready]:
            try:
                answer = worker.pipe.recv() if worker.pipe.poll() else None
            except (EOFError, OSError):
                answer = None
            if answer is None:
                raise RunError(_epitaph(worker, doing(tasks[busy[worker]]), fewer))
            failed, result = answer
            if failed:
                raise RunError(result)
            yield busy.pop(worker), result
            idle.append(worker)


def _epitaph(worker: _Worker, doing: str, fewer: str) -> str:
    worker.process.join(1)
    code = worker.process.exitcode
    cause = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    hint = f"; if memory ran out, try {fewer} or a smaller federation.batch_size" if cause == "SIGKILL" else ""
    return f"a worker process died {doing} ({cause}){hint}; the same command continues from the last whole round"


def _work(perform: Callable[[Any], Any], pipe: Connection, parent: int, library: ctypes.CDLL) -> None:
    """Life of a worker: perform what comes through the pipe, until killed; die with the parent."""
    die_with(parent, library)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to all processes of a job: the parent ends its workers
    torch.set_num_threads(1)
    while True:
        task = pipe.recv()
        try:
            answer = (False, perform(task))
        except RunError as error:
            answer = (True, str(error))
        except Exception as error:
            answer = (True, f"{type(task).__name__} failed: {type(error).__name__}: {error}")
        pipe.send(answer)
