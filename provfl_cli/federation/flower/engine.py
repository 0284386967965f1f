"""Clients on Flower's simulation: the same tasks, the same numbers, on workers that Ray starts here or on a cluster.

The run's own process keeps the rounds, the store and the evaluation; `flower_server` is the process that it hands
training to, `flower_app` what that one's workers do.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING, Any

import torch

from ...config import schema
from ...config.plain import as_text
from ...errors import InputError, RunError
from ...processes import available_cores
from ...store.tensorfile import write_tensors
from ..engine import Perform, Result, perform_here
from ..events import ClientFailed, EngineStarting
from ..site import Site, Task, TrainTask
from .server import END, WEIGHTS, Plan, order, serve

if TYPE_CHECKING:
    from ..round import Observe

LOG = "flower.log"
AHEAD = 2  # tasks handed over for each worker: the next one is there when the last one ends
START = 300.0  # seconds that Ray, Flower and the workers get until they are ready
PATIENCE = 15.0  # seconds that Flower and Ray get to end by themselves
LONGEST = 30  # characters of the folder of Ray's sockets, whose paths the system limits to 107


@dataclass(frozen=True, eq=False)
class _Server:
    process: BaseProcess
    pipe: Connection
    workers: int


@contextmanager
def flower(
    config: schema.Config,
    site: Site,
    workers: int,
    key: str,
    device: torch.device,
    logs: Path,
    observe: Observe,
) -> Iterator[Perform]:
    """Hands for the tasks of a federation: Flower's simulation trains, this process evaluates.

    A client that fails (it raises, or its worker dies) is asked again or drops out, as `engine.on_failure` says. On the
    way out all that was started is gone.

    Args:
        config: of the federation; its text is all that the workers get.
        site: of this process.
        workers: clients that train at the same time, where Ray is started here.
        key: of the federation, by which workers know that they have come to the same.
        device: where clients train.
        logs: folder for `flower.log`.
        observe: is told of the start, and of clients that fail.

    Raises:
        InputError: the GPUs asked for do not fit the device.
        RunError: Ray or Flower could not be started, or a client failed too often.
    """
    settings = config.engine
    if device.type == "cuda" and not settings.gpus_per_client:
        raise InputError(
            "device=cuda: Ray gives clients no GPU unless told: engine.gpus_per_client=0.5 (two share one), or "
            "device=cpu"
        )
    if settings.address is None and settings.gpus_per_client and not torch.cuda.is_available():
        raise InputError(
            f"engine.gpus_per_client={settings.gpus_per_client}: this machine has no GPU: leave it out, or "
            "engine.address=HOST:PORT of a Ray cluster that has"
        )
    if settings.workers is None:
        workers = min(workers, max(1, available_cores() // settings.cpus_per_client))
    scratch = Path(tempfile.mkdtemp(prefix="provfl-", dir=None if len(tempfile.gettempdir()) <= LONGEST else "/tmp"))
    text = as_text(replace(config, device=device.type))
    plan = Plan(text, key, len(site.data.clients), workers, settings, (logs / LOG).absolute(), scratch)
    servers: list[_Server] = []  # one, or none after it had to be ended
    whole = False
    try:
        where = f"the Ray cluster at {settings.address}" if settings.address else f"Ray, {workers} clients at a time"
        observe(EngineStarting(f"starting Flower on {where}", plan.log))
        servers.append(_started(plan))
        yield lambda tasks: _perform(plan, servers, site, tasks, observe)
        whole = True
    finally:
        for server in servers:
            _end(server, patient=whole)
        shutil.rmtree(scratch, ignore_errors=True)


def _started(plan: Plan) -> _Server:
    """The process of Flower's simulation, as soon as its workers are ready."""
    # Forked where that is safe: a new interpreter takes seconds to import torch. Where this process has had to do with
    # Ray it is not: Ray's connections do not outlive a fork, and the child would wait for ever for one of its own.
    safe = sys.platform == "linux" and "ray" not in sys.modules
    context: Any = multiprocessing.get_context("fork" if safe else "spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(plan, theirs, os.getpid()), name="provfl-flower")
    process.start()
    theirs.close()
    starting = _Server(process, ours, 0)
    try:
        answer = _answer(starting, time.monotonic() + START)
        if answer is not None and answer[0] == "ready":
            return replace(starting, workers=answer[1])
        reason = (
            f"its workers were not ready after {START:g} seconds"
            if answer == _LATE
            else answer[1]
            if answer
            else "it died"
        )
        raise RunError(f"Flower could not be started: {reason} (all it said: {plan.log})")
    except BaseException:
        _end(starting, patient=False)
        raise


_LATE = ["late"]


def _answer(server: _Server, deadline: float) -> list[Any] | None:
    """What the process says next; None where it has died, `_LATE` where it says nothing until then."""
    if not wait([server.pipe, server.process.sentinel], max(0.0, deadline - time.monotonic())):
        return _LATE
    try:
        return list(json.loads(server.pipe.recv_bytes())) if server.pipe.poll() else None
    except (EOFError, OSError):
        return None


def _perform(
    plan: Plan, servers: list[_Server], site: Site, tasks: Sequence[Task], observe: Observe
) -> Iterator[tuple[int, Result]]:
    """Perform the tasks of a round; clients that fail are asked again, or yield None."""
    clients = [task for task in tasks if isinstance(task, TrainTask)]
    if len(clients) < len(tasks):  # the server's test set stays with the server
        yield from perform_here(site, tasks)
        return
    settings, deadline = plan.engine, time.monotonic() + plan.engine.timeout
    write_tensors(plan.weights, site.published)
    waiting, under_way, tries, deaths = deque(range(len(clients))), set[int](), Counter[int](), 0
    informed: _Server | None = None  # who knows the weights of this round
    while waiting or under_way:
        if not servers:
            began = time.monotonic()
            servers.append(_started(plan))
            deadline += time.monotonic() - began  # the clients are not to blame for it
        (server,) = servers
        with suppress(BrokenPipeError):  # it has died: found out below
            if informed is not server:
                server.pipe.send_bytes(order(WEIGHTS))
                informed = server
            while waiting and len(under_way) < AHEAD * server.workers:
                under_way.add(waiting[0])
                number = waiting.popleft()
                server.pipe.send_bytes(order((number, clients[number])))
        answer = _answer(server, deadline)
        if answer is not None and answer[0] == "done":
            under_way.remove(answer[1])
            yield answer[1], (answer[2],)
        elif answer is not None and answer[0] == "failed":
            number = answer[1]
            under_way.remove(number)
            tries[number] += 1
            if _again(plan, site, clients[number], answer[2], tries[number], observe):
                waiting.append(number)
            else:
                yield number, None
        else:  # it is of no use any more, and must not write into the round again
            _end(servers.pop(), patient=False)
            missing = sorted({*under_way, *waiting})
            if answer == _LATE:
                for number in _given_up(plan, site, [clients[number] for number in missing], observe):
                    yield missing[number], None
                return
            deaths += 1
            if deaths > settings.retries:
                reason = answer[1] if answer else "its process died"
                raise RunError(f"Flower failed in round {clients[0].round}: {reason} (all it said: {plan.log})")
            waiting, under_way = deque(missing), set()


def _again(plan: Plan, site: Site, task: TrainTask, reason: str, tries: int, observe: Observe) -> bool:
    """Whether a client that failed is asked again; otherwise it drops out, or the run ends."""
    client, settings = site.data.clients[task.position].id, plan.engine
    if not reason.startswith(f"client {client} "):
        reason = f"client {client} failed in round {task.round}: {reason}"
    if settings.on_failure == "retry" and tries > settings.retries:
        often = f" ({tries} times)" if tries > 1 else ""
        raise RunError(f"{reason}{often}; engine.on_failure=dropout goes on without; what Flower said: {plan.log}")
    again = settings.on_failure == "retry"
    observe(ClientFailed(task.round, client, reason, again))
    return again


def _given_up(plan: Plan, site: Site, missing: Sequence[TrainTask], observe: Observe) -> range:
    """The clients that took too long, where they drop out; otherwise the run ends."""
    ids = [site.data.clients[task.position].id for task in missing]
    number, limit = missing[0].round, f"within engine.timeout={plan.engine.timeout:g} seconds"
    if plan.engine.on_failure == "retry":
        listed = ", ".join(map(str, ids[:10])) + (", …" if len(ids) > 10 else "")
        raise RunError(
            f"round {number}: nothing came back {limit} from clients {listed}: a larger engine.timeout, or "
            "engine.on_failure=dropout to go on without them"
        )
    for client in ids:
        observe(ClientFailed(number, client, f"client {client} did not return in round {number} {limit}", False))
    return range(len(missing))


def _end(server: _Server, patient: bool) -> None:
    """End the process and all that it has started; `patient`: it may say good-bye to Ray first."""
    family = _descendants(server.process.pid)
    if patient:
        with suppress(OSError):
            server.pipe.send_bytes(order(END))
        server.process.join(PATIENCE)
    server.process.kill()
    server.process.join()
    server.pipe.close()
    # Ray's processes die with the one that started them, its workers when they notice: only the stubborn are killed.
    deadline = time.monotonic() + 5
    while family and time.monotonic() < deadline:
        family = {pid: began for pid, began in family.items() if _began(pid) == began}
        time.sleep(0.05 if family else 0)
    for pid in family:
        with suppress(OSError):
            os.kill(pid, SIGKILL)


def _descendants(pid: int | None) -> dict[int, str]:
    """Processes that this one has started, directly or not, with the times of their start (Linux; elsewhere none)."""
    descendants: dict[int, str] = {}
    todo = [pid]
    while todo:
        with suppress(OSError):
            for path in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
                children = [int(child) for child in path.read_text().split()]
                descendants |= {child: _began(child) for child in children}
                todo += children
    return descendants


def _began(pid: int) -> str:
    """When a process was started: with its number the name of a process; empty where it is gone."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""
