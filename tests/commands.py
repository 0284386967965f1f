"""The command line in processes of its own that need not import the libraries: forked from one that has them.

A process that is started anew takes three seconds for its imports, in which nothing is tested. The one that these are
forked from is clean: it has imported, and done nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import provfl_cli.run.job  # noqa: F401 - what a run imports, there once this module is preloaded
from provfl_cli.cli import main

FORKING = multiprocessing.get_context("forkserver")


class Command:
    """`provfl ARGUMENTS` at work in a folder, as the leader of a group of processes; what it says goes into files."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.out, self.err = folder / "stdout", folder / "stderr"
        self.process: ForkServerProcess = FORKING.Process(
            target=_run, args=(str(folder), str(self.out), str(self.err), arguments)
        )
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait(self, seconds: float = 60) -> int:
        """Its exit code, -9 of one that was killed."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "still at work"
        return self.process.exitcode

    def until_it_says(self, words: str, seconds: float = 60) -> None:
        """Wait for these words; an error if it ends without them."""
        assert wait_for(lambda: self._says(words) or not self.process.is_alive(), seconds)
        assert self._says(words), self.err.read_text()

    def _says(self, words: str) -> bool:
        return self.out.exists() and words in self.out.read_text(encoding="utf-8")


def _run(folder: str, out: str, err: str, arguments: tuple[str, ...]) -> None:
    os.setsid()
    os.chdir(folder)
    for path, number in ((os.devnull, 0), (out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), number)
    # Whoever runs the tests in the background has interrupts ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for of_the_user in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(of_the_user, signal.SIG_DFL)
    sys.argv = ["provfl", *arguments]
    sys.exit(main())


def children(pid: int) -> list[int]:
    """The processes that a process has started and that are there (Linux)."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether a condition comes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def gone(pid: int) -> bool:
    """Whether a process is dead; it may still wait to be reaped (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
