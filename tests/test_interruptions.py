"""`provfl run` killed and interrupted: nothing is lost, nobody is left at work, and it ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .commands import Command, children, gone, wait_for
from .conftest import REPOSITORY
from .runs import SMALL, Result, run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
LONG = ["federation.rounds=12", "federation.local_epochs=3", "provenance.rounds=[4,12]"]
RUN = ["run", *SMALL, *LONG, "hydra.run.dir=result", "store.cache=cache"]


def test_killed_and_called_again_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    moment, folder = random.Random(20231213), tmp_path / "killed"
    folder.mkdir()
    began = time.monotonic()
    unbroken = run(tmp_path / "unbroken", *LONG)
    length = time.monotonic() - began
    reached: list[int] = []
    for _ in range(3):
        started = Command(folder, *RUN)
        started.until_it_says("shaded:")
        time.sleep(moment.uniform(0, 0.3 * length))
        workers = children(started.pid)
        os.kill(started.pid, signal.SIGKILL)
        if started.wait() == 0:  # it was faster than the unbroken run, whose time the moments are drawn from
            break
        assert wait_for(lambda workers=workers: all(gone(pid) for pid in workers)), "an orphan goes on"
        stored = [int(path.name) for path in folder.glob("cache/federations/*/rounds/[0-9]*")]
        reached.append(max(stored, default=0))
    assert reached, "killed at least once"
    assert reached == sorted(reached), "no round is lost"
    last = subprocess.run(
        [sys.executable, "-m", "provfl_cli", *RUN],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (last.returncode, last.stderr) == (0, "")
    assert Result(folder / "result").content() == unbroken.content()


@pytest.mark.parametrize(
    ("number", "says", "group"),
    [
        (signal.SIGINT, "interrupted", False),
        (signal.SIGTERM, "ended by SIGTERM", False),
        (signal.SIGTERM, "ended by SIGTERM", True),
        (signal.SIGHUP, "ended by SIGHUP", True),
    ],
)
def test_interrupted_it_says_so_and_leaves_nobody_at_work(
    number: signal.Signals, says: str, group: bool, tmp_path: Path
) -> None:
    """By a signal to the process, or to all of its group as a terminal or a scheduler sends it."""
    folder = tmp_path / "interrupted"
    folder.mkdir()
    sweep = ["-m", "seed=0,1", "hydra.sweep.dir=sweep"] if group else []
    started = Command(folder, *RUN, "federation.rounds=1000", "provenance.rounds=last", *sweep)
    started.until_it_says("2 jobs" if sweep else "shaded:")
    assert wait_for(lambda: any(folder.glob("cache/federations/*/rounds/[0-9]*")), 60)
    workers = children(started.pid)
    assert workers
    if group:
        os.killpg(started.pid, number)
    else:
        os.kill(started.pid, number)
    assert started.wait(20) == 128 + number
    assert started.err.read_text() == f"provfl: {says}; the same command goes on from the last whole round\n"
    assert wait_for(lambda: all(gone(pid) for pid in workers))
