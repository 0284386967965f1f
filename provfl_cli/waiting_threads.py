"""How the threads of libgomp, torch's on Linux, wait for work: to be said before torch is imported."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path

LOOKS = "10000"  # for new work before a thread sleeps: some ten microseconds
RUNNING = Path("/proc/loadavg")
MOMENTS, APART = 3, 0.0005  # looks at what runs, seconds: who runs for less than that is nobody to wait for


def choose_waiting(environment: MutableMapping[str, str]) -> None:
    """Let threads that wait sleep at once where other processes want the cores, else look for work a moment longer.

    A thread that goes on looking holds the core that somebody else wants: beside two busy processes a LeNet's trace
    took three times as long. One that sleeps at once has to be woken for each of thousands of small products: on quiet
    cores a pass of DenseNet-121 took twice as long. Whatever the environment says already stays.

    Args:
        environment: variables, into which the choice is written.
    """
    if sys.platform != "linux" or environment.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        return
    if running_beside() * 4 > (os.cpu_count() or 1):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    else:
        environment["GOMP_SPINCOUNT"] = LOOKS


def running_beside() -> int:
    """Processes and threads of the machine that run or wait for a core just now, but for this one."""
    fewest = sys.maxsize
    for _ in range(MOMENTS):
        try:
            fewest = min(fewest, int(RUNNING.read_text().split()[3].split("/")[0]) - 1)
        except (OSError, ValueError, IndexError):  # no /proc, or another form of it
            return 0
        time.sleep(APART)
    return fewest
