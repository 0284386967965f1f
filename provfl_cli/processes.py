"""Processes and threads: how many, forked ones that end with their parent, and one thread where sums depend on it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from .imports import later

if TYPE_CHECKING:
    import torch
else:
    torch = later("torch")


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch works with one thread within: sums depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# Parameters of a language model whose products are too small to be worth a second thread: measured with 0.4 and 1.5
# million on two cores, traces of 8 responses take 0.2 and 0.3 s with one thread, 3 to 10 s with two, which wait for
# each other.
TINY = 2_000_000


def threads_worth(parameters: int) -> AbstractContextManager[None]:
    """One thread within for a tiny language model, all of them for others."""
    return one_thread() if parameters <= TINY else nullcontext()


PR_SET_PDEATHSIG = 1


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def can_fork() -> bool:
    """Whether workers may be forked: on Linux, whose kernel ends them with their parent, and without a GPU: where
    there is one, autograd starts threads for it, and refuses to work in processes forked after that."""
    return sys.platform == "linux" and not torch.accelerator.is_available()


def die_with(parent: int, library: ctypes.CDLL) -> None:
    """Let this process, just forked on Linux, end with its parent and not before it."""
    library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as does a terminal that closes
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
