"""The training cache: one folder per federation, named by what determines its training.

federations/.lock                  taken for moments: by who opens an entry, and by who prunes
federations/KEY/rounds/            whole rounds
                training.json      what the key stands for, for people
                keep.json          numbers of the rounds that some run asked to keep
                train.lock         held by the process that trains here
                leases/            one held lock for every process that uses the entry; its death frees it
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import RunError
from .rounds import Round, read_round, remove_leftovers, remove_round, stored_rounds

POLL = 0.2  # seconds between two looks at a lock that another process holds


@dataclass(frozen=True)
class Entry:
    """The stored rounds of one federation."""

    folder: Path

    @property
    def rounds(self) -> Path:
        """The folder of the rounds."""
        return self.folder / "rounds"

    def stored(self) -> list[int]:
        """Numbers of the whole rounds on disk, ascending."""
        return stored_rounds(self.rounds)

    def kept(self) -> set[int]:
        """Numbers of the rounds that some run asked to keep."""
        try:
            return set(json.loads((self.folder / "keep.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return set()

    def keep(self, numbers: Iterable[int]) -> None:
        """Ask to keep these rounds, for this run and all later ones."""
        with FileLock(self.folder / "keep.lock"):
            _replace(self.folder / "keep.json", json.dumps(sorted(self.kept().union(numbers))))

    def read(self, number: int) -> Round:
        """Open a stored round."""
        return read_round(self.rounds, number)

    def drop(self, below: int) -> None:
        """Delete the rounds before round `below` that nobody asked to keep; only under the training lock."""
        with FileLock(self.folder / "keep.lock"):
            for number in set(self.stored()) - self.kept():
                if number < below:
                    remove_round(self.rounds, number)

    def tidy(self, below: int) -> None:
        """Clear what a killed process left, as `drop` and the start of training do, unless somebody trains here now."""
        lock = FileLock(self.folder / "train.lock")
        with suppress(Timeout), lock.acquire(timeout=0):
            remove_leftovers(self.rounds)
            self.drop(below)

    @contextmanager
    def training(self, until: Callable[[], bool], waiting: Callable[[], None]) -> Iterator[bool]:
        """Hold the right to train here; yields False, without it, as soon as `until()` is true.

        Left-overs of a killed process are cleared first. `waiting()` is called once where another process holds it.
        """
        lock = FileLock(self.folder / "train.lock")
        told = False
        while not until():
            try:
                lock.acquire(timeout=POLL if told else 0)
                break
            except Timeout:
                if not told:
                    waiting()
                told = True
        else:
            yield False
            return
        try:
            if until():
                yield False
                return
            remove_leftovers(self.rounds)
            yield True
        finally:
            lock.release()


@contextmanager
def open_entry(cache: Path, key: str, description: dict[str, object], max_gb: float) -> Iterator[Entry]:
    """Open, or make, the entry of a federation; within the context nobody prunes it.

    What was used longest ago is pruned to `max_gb` (1e9 bytes) before and after.
    """
    home = cache / "federations"
    entry = Entry(home / key)
    with ExitStack() as stack:
        try:
            home.mkdir(parents=True, exist_ok=True)
            with FileLock(home / ".lock"):
                (entry.folder / "leases").mkdir(parents=True, exist_ok=True)
                entry.rounds.mkdir(exist_ok=True)
                lease = FileLock(entry.folder / "leases" / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.lock")
                lease.acquire()
                stack.callback(_give_back, lease)
                _replace(entry.folder / "training.json", json.dumps(description, indent=1, sort_keys=True) + "\n")
                _mark_used(entry.folder)
        except OSError as error:
            raise RunError(
                f"the training cache {home} cannot be used ({error}): choose another with store.cache=DIR"
            ) from error
        prune(home, max_gb)
        stack.callback(prune, home, max_gb)  # while the lease is still held: what was just trained stays
        stack.callback(_mark_used, entry.folder)
        yield entry


def prune(home: Path, max_gb: float) -> list[str]:
    """Delete the entries used longest ago until the rest takes at most `max_gb` (1e9 bytes); returns their keys.

    An entry that a process has open stays, whatever its size.
    """
    pruned: list[str] = []
    if not home.is_dir():
        return pruned
    with FileLock(home / ".lock"):
        for leftover in home.glob(".*.removed"):
            shutil.rmtree(leftover, ignore_errors=True)
        entries = [folder for folder in home.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
        sizes = {folder: disk_usage(folder) for folder in entries}
        total = sum(sizes.values())
        for folder in sorted(entries, key=lambda folder: folder.stat().st_mtime):
            if total <= max_gb * 1e9:
                break
            if _in_use(folder):
                continue
            doomed = home / f".{folder.name}.removed"
            folder.rename(doomed)  # first out of sight, so that no half entry is ever found
            shutil.rmtree(doomed, ignore_errors=True)
            total -= sizes[folder]
            pruned.append(folder.name)
    return pruned


def disk_usage(folder: Path) -> int:
    """Bytes that a folder takes on disk, hard links counted once."""
    seen: dict[tuple[int, int], int] = {}
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                status = os.lstat(os.path.join(root, name))
            except FileNotFoundError:  # another process is at work here
                continue
            seen[status.st_dev, status.st_ino] = status.st_size
    return sum(seen.values())


def require_space(folder: Path, needed: int) -> None:
    """Raise RunError unless the disk of `folder` has `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RunError(
            f"the rounds to keep need about {needed / 1e6:,.0f} MB and {folder} has {free / 1e6:,.0f} MB free: "
            "make room, choose another place with store.cache=DIR, or keep fewer rounds (store.keep, provenance.rounds)"
        )


def _in_use(folder: Path) -> bool:
    """Whether a living process has the entry open; leases of dead ones are cleared away."""
    for path in (folder / "leases").glob("*.lock"):
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        _give_back(lock)
    return False


def _mark_used(folder: Path) -> None:
    """Let the folder's time say when it was used last."""
    with suppress(FileNotFoundError):  # somebody has cleared the cache by hand
        os.utime(folder)


def _give_back(lease: FileLock) -> None:
    """Release a lease and remove its file."""
    Path(lease.lock_file).unlink(missing_ok=True)
    lease.release()


def _replace(path: Path, text: str) -> None:
    """Write a small file as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
