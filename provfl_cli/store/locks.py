"""Locks that the death of their holder frees, and folders claimed by whoever writes into them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from ..errors import InputError

LEASE = 60.0  # seconds without a sign of life after which a lease is taken over; the same on all machines
BEATS = 6  # signs of life in that time: five may go amiss
CLAIM = ".provfl.lock"  # in a folder while somebody writes into it
NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class FolderClaimed(InputError):
    """Another process writes into the folder."""


def lock(path: Path, kind: str, duration: float = LEASE) -> BaseFileLock:
    """A lock that its holder's death frees, on this machine or another.

    `kind`: `flock`, or `lease`, which is taken over after `duration` seconds without a sign of life.
    """
    if kind == "lease":
        return SoftFileLease(path, lease_duration=duration, heartbeat_interval=duration / BEATS)
    return FileLock(path, fallback_to_soft=False)  # a soft lock of a dead machine would stay for ever


def give_back(held: BaseFileLock) -> None:
    """Release a lock and remove its file."""
    if not isinstance(held, SoftFileLease):  # which does so itself
        Path(held.lock_file).unlink(missing_ok=True)
    held.release()


@contextmanager
def claimed(folder: Path, kind: str = "flock", wait: float = 0.0) -> Iterator[None]:
    """Within the context nobody else writes into the folder, which is made where it is missing; see `claim`."""
    held = claim(folder, kind, wait)
    try:
        yield
    finally:
        give_back(held)


def claim(folder: Path, kind: str = "flock", wait: float = 0.0) -> BaseFileLock:
    """Take a folder for this process until `give_back`, or its death; the folder is made where it is missing.

    Where the file system has no flock it is a lease.

    Raises:
        Claimed: another process writes into it, and still does after `wait` seconds.
        OSError: it cannot be made, or not be written to.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock(folder / CLAIM, kind)
        try:
            held.acquire(timeout=wait)
            return held
        except Timeout:
            raise FolderClaimed(
                f"{os.path.relpath(folder)}: another process is writing into it: wait until it has ended, or give "
                "another folder"
            ) from None
        except FileNotFoundError:  # who had it has just removed it, since nothing came of it
            continue
        except NotImplementedError:
            kind = "lease"
        except OSError as error:
            if kind == "lease" or error.errno not in NO_FLOCK:
                raise
            kind = "lease"
