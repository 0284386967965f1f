"""Trainings in processes of their own, which may be killed: forked from one process that has imported everything."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from provfl_cli.federation.events import RoundStarted, WaitingForProcess
from provfl_cli.federation.train import federated_rounds

from .federations import CPU, make_config, make_data, make_model

# The process that forks has no threads and has computed nothing: what it forks is as good as started anew.
PROCESSES = multiprocessing.get_context("forkserver")  # what it has imported: see conftest.py


@dataclass(frozen=True)
class Training:
    """A training in another process, and what it says: event by event, at last the accuracy."""

    process: BaseProcess
    said: Connection

    def everything_said(self) -> list[str | float]:
        """What it says until it ends."""
        lines: list[str | float] = []
        try:
            while True:
                lines.append(self.said.recv())
        except EOFError:
            self.process.join()
            return lines

    def kill(self) -> bool:
        """End it at once; whether it had not ended before."""
        self.process.kill()
        self.process.join()
        return self.process.exitcode == -9


def start_training(cache: Path, rounds: int, epochs: int) -> Training:
    """The federation of `make_config` with so many rounds of so many epochs."""
    said, saying = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_train, args=(saying, cache, rounds, epochs))
    process.start()
    saying.close()
    return Training(process, said)


def _train(saying: Connection, cache: Path, rounds: int, epochs: int) -> None:
    def observe(event: object) -> None:
        if isinstance(event, RoundStarted | WaitingForProcess):
            saying.send(type(event).__name__)

    config = make_config(rounds=rounds, local_epochs=epochs, keep=2)
    with federated_rounds(config, make_data(), make_model(), cache, {rounds}, CPU, observe) as wanted:
        for stored in wanted:
            saying.send(stored.metrics.accuracy)
