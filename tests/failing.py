"""Clients that fail while they train, planted as an injection, which travels with the config; and jobs that die."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from provfl_cli.data.injection import NoInjection
from provfl_cli.fusion.submission import Submission


@dataclass(frozen=True)
class Failing(NoInjection):
    """Clients that raise, hang, or whose worker is killed, the first few times that they are asked in a round.

    They train as if nothing were planted: the federation has the name of one without. `faults` are of the form [client,
    round, raise | hang | kill, times]; `folder` counts the times.
    """

    folder: str
    faults: list[Any]

    def returned(self, submission: Submission) -> None:
        """Fail after the training, before anything is returned."""
        client, number = submission.client, submission.round
        for faulty, when, how, times in self.faults:
            if (client, number) != (faulty, when) or self.tried(client, number) >= times:
                continue
            (Path(self.folder) / f"try-{client}-{number}-{self.tried(client, number)}").touch()
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "hang":
                time.sleep(600)
            raise ValueError("a disk is on fire")

    def tried(self, client: int, number: int) -> int:
        """How often a client has failed in a round."""
        return len(list(Path(self.folder).glob(f"try-{client}-{number}-*")))


class Killed(Callback):
    """A job of a sweep that the machine kills: the one with this seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_job_start(self, config: DictConfig, **of_hydra: Any) -> None:
        """Nothing of the process is left to say what happened."""
        if config.seed == self.seed:
            os.kill(os.getpid(), signal.SIGKILL)
