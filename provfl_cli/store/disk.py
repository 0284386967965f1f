"""Having the system put on the disk what was written, whole or not at all, and checking that it is still the same."""

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from ..errors import RunError


def flush(path: Path) -> None:
    """Return when the content of a file, or the entries of a folder, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


SETTLED = 1.0  # seconds after which a file that is written once more has another time
_known: dict[tuple[int, ...], str] = {}  # checksums that were computed, by what file it was and when it was written
MOST_KNOWN = 4096


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; of one that stays as it is computed once in a process, by whatever name."""
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        which = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        if which not in _known:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if time.time() - state.st_mtime < SETTLED:
                return digest
            while len(_known) >= MOST_KNOWN:
                del _known[next(iter(_known))]
            _known[which] = digest
        return _known[which]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to; on leaving it becomes `path`, on an exception nothing is left.

    A process that is killed leaves what it had written beside `path`, until the next one on this machine writes there.

    Raises:
        RunError: the folder cannot be written to, or the disk is full.
    """
    beside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{escape(path.name)}.{escape(socket.gethostname())}.*.part"):
            if not _alive(left.name.split(".")[-2]):
                left.unlink(missing_ok=True)
        yield beside
        flush(beside)
        os.replace(beside, path)
        flush(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            beside.unlink()


def _alive(number: str) -> bool:
    """Whether there may be a process of this number."""
    try:
        os.kill(int(number), 0)
    except PermissionError:  # somebody else's
        return True
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    return True
