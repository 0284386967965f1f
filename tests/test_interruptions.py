"""`provfl run` killed and interrupted: nothing is lost, nobody is left at work, and it ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.test_run import SMALL, Result, run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
LONG = ["federation.rounds=12", "federation.local_epochs=6", "provenance.rounds=[4,12]"]


def process(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    """The same command line in a process of its own."""
    places = ["hydra.run.dir=result", "store.cache=cache"]
    return subprocess.Popen(
        [sys.executable, "-m", "provfl_cli", "run", *SMALL, *LONG, *places, *overrides],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has interrupts ignored, and children inherit that.
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)],
        start_new_session=True,
    )


def until_training(started: subprocess.Popen[str]) -> None:
    """Read what a process says until its data are loaded."""
    assert started.stdout is not None
    while "shaded:" not in (line := started.stdout.readline()):
        assert line, started.communicate()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition: Any, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def gone(pid: int) -> bool:
    """Whether a process is dead (it may still wait to be reaped)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_killed_and_called_again_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    moment, folder = random.Random(20231213), tmp_path / "killed"
    folder.mkdir()
    began = time.monotonic()
    unbroken = run(tmp_path / "unbroken", *LONG)
    length = time.monotonic() - began
    reached: list[int] = []
    for _ in range(3):
        started = process(folder)
        until_training(started)
        time.sleep(moment.uniform(0, 0.3 * length))
        workers = children(started.pid)
        started.kill()
        if started.wait() == 0:  # it was faster than the unbroken run, whose time the moments are drawn from
            break
        assert wait_for(lambda workers=workers: all(gone(pid) for pid in workers)), "an orphan goes on"
        started.communicate()
        stored = [int(path.name) for path in folder.glob("cache/federations/*/rounds/[0-9]*")]
        reached.append(max(stored, default=0))
    assert reached, "killed at least once"
    assert reached == sorted(reached), "no round is lost"
    last = process(folder)
    _, errors = last.communicate(timeout=120)
    assert (last.returncode, errors) == (0, "")
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
    started = process(folder, "federation.rounds=1000", "provenance.rounds=last", *sweep)
    until_training(started)
    assert wait_for(lambda: any(folder.glob("cache/federations/*/rounds/[0-9]*")), 60)
    workers = children(started.pid)
    assert workers
    if group:
        os.killpg(started.pid, number)
    else:
        started.send_signal(number)
    _, errors = started.communicate(timeout=20)
    assert started.returncode == 128 + number
    assert errors == f"provfl: {says}; the same command goes on from the last whole round\n"
    assert wait_for(lambda: all(gone(pid) for pid in workers))
