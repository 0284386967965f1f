"""The process in which Flower's simulation runs: it takes tasks through a pipe and has them performed on Ray.

    in     "weights": there are new global weights; [number, task]; "end"
    out    ["ready", workers], ["done", number, loss], ["failed", number, reason], ["broken", reason]: it ends

It is a process of its own, so that nothing of Flower or Ray (threads, signal handlers, output) is in the run's, and so
that killing it ends all of it: Ray's processes die with the one that started them.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config import schema
from ...errors import RunError
from ...processes import die_with
from ...store.tensorfile import open_tensors
from ..site import TrainTask, read_controls, read_merged, write_trained

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, RecordDict
    from flwr.serverapp import Grid

POLL = 0.02  # seconds between two looks for tasks and replies
TOLERANCE = 600.0  # seconds for which a message outlives the round in which it was sent

WEIGHTS, END = "weights", "end"

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
# Ray asks a public name server for the address of this machine, unless it is told to stay on it.
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@dataclass(frozen=True)
class Plan:
    """What the process needs to know.

    Attributes:
        text: the configuration, see `config.plain`.
        key: of the federation.
        clients: how many there are: Flower gets a node for each.
        workers: that train at the same time where Ray is started here.
        engine: the settings.
        log: the file that everything said here is added to.
        scratch: a folder of its own with a short name: Ray's sockets are in it, and the global weights of a round.
    """

    text: str
    key: str
    clients: int
    workers: int
    engine: schema.Engine
    log: Path
    scratch: Path

    @property
    def weights(self) -> Path:
        """The file in which the global weights are handed over."""
        return self.scratch / "global.safetensors"


def order(what: str | tuple[int, TrainTask]) -> bytes:
    """What goes in: `WEIGHTS`, `END`, or a task with the number under which it is answered."""
    return json.dumps(what if isinstance(what, str) else [what[0], asdict(what[1])]).encode()


def serve(plan: Plan, pipe: Connection, parent: int) -> None:
    """Life of the process: start Ray and Flower, perform what comes through the pipe, end with `END` or the parent."""
    _separate(plan.log)
    if sys.platform == "linux":
        die_with(parent, ctypes.CDLL(None))
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ |= QUIET
    try:
        _simulate(plan, pipe)
    except Exception as error:
        logging.getLogger("flwr").exception("the simulation ended")
        _tell(pipe, "broken", " ".join(f"{type(error).__name__}: {error}".split())[:300])
        sys.exit(1)


def _separate(log: Path) -> None:
    """Let all that this process and its children say go into the file, and nothing of the terminal's come in."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(descriptor, target)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    for handler in logging.getLogger("flwr").handlers:  # of a caller who has used Flower before
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)


def _simulate(plan: Plan, pipe: Connection) -> None:
    """Start Ray, and Flower on it; returns when both have ended."""
    settings = plan.engine
    folders = [*sys.path, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    path = os.pathsep.join(folder for folder in dict.fromkeys(folders) if folder)
    if settings.address is None:
        os.environ |= ALONE | {"PYTHONPATH": path}  # Ray's processes inherit it
        place: dict[str, Any] = {
            "num_cpus": plan.workers * settings.cpus_per_client,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": str(plan.scratch),
        }
    else:
        place = {"address": settings.address, "runtime_env": {"env_vars": {"PYTHONPATH": path}}}

    import ray
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation
    from flwr.simulation.ray_transport.ray_actor import pool_size_from_resources

    from .app import app

    try:
        ray.init(**place, log_to_driver=True, logging_level=logging.INFO)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        where = "" if settings.address is None else f" at engine.address={settings.address}"
        raise RunError(f"Ray cannot be reached or started{where}: {error}") from error
    hosting: dict[str, int | float] = {"num_cpus": settings.cpus_per_client, "num_gpus": settings.gpus_per_client}
    workers = pool_size_from_resources(hosting)
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: object) -> None:
        _perform(plan, pipe, grid, workers)

    run_simulation(
        server_app=server,
        client_app=app,
        num_supernodes=plan.clients,
        # A worker that dies is started again; what it was doing comes back as an error, for the run to decide on.
        backend_config={"client_resources": {**hosting, "max_restarts": -1, "max_task_retries": 0}},
    )


def _perform(plan: Plan, pipe: Connection, grid: Grid, workers: int) -> None:
    """What the server of this federation does: messages for tasks, until the end."""
    from flwr.app import Message, MessageType

    from .app import arrays, failure, not_begun, preparation, trained, with_task

    def pushed(content: RecordDict, kind: str, node: int) -> str:
        message = Message(content, dst_node_id=node, message_type=kind, ttl=plan.engine.timeout + TOLERANCE)
        (name,) = grid.push_messages([message])
        return name

    def begin(number: int, task: TrainTask) -> None:
        assert weights is not None
        content = with_task(ready, task, weights, read_controls(task), read_merged(task))
        under_way[pushed(content, MessageType.TRAIN, nodes[task.position])] = number, task

    while len(nodes := sorted(grid.get_node_ids())) < plan.clients:
        time.sleep(POLL)
    ready = preparation(plan.text, plan.key)
    # As many as there are workers, and at the same time: so each gets one.
    greeted = {pushed(ready, MessageType.QUERY, node) for node in nodes[:workers]}
    while greeted:
        for reply in grid.pull_messages(greeted):
            greeted.remove(reply.metadata.reply_to_message_id)
            reason = failure(reply)
            if reason is not None:
                return _tell(pipe, "broken", reason)
        time.sleep(POLL)
    _tell(pipe, "ready", workers)

    under_way: dict[str, tuple[int, TrainTask]] = {}
    weights: ArrayRecord | None = None
    while True:
        while pipe.poll(0 if under_way else 1):
            message = json.loads(pipe.recv_bytes())
            if message == END:
                return None
            if message == WEIGHTS:
                weights = arrays(open_tensors(plan.weights))
                continue
            begin(message[0], TrainTask(**message[1]))
        for reply in grid.pull_messages(list(under_way)) if under_way else ():
            number, task = under_way.pop(reply.metadata.reply_to_message_id)
            if not_begun(reply):
                begin(number, task)
                continue
            reason = failure(reply)
            if reason is None:
                result = trained(reply.content)
                write_trained(task, result)
                _tell(pipe, "done", number, result.loss)
            else:
                _tell(pipe, "failed", number, reason)
        time.sleep(POLL)


def _tell(pipe: Connection, *answer: object) -> None:
    pipe.send_bytes(json.dumps(answer).encode())
