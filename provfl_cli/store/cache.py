"""The training cache: one folder per federation, named by what determines its training.

federations/.lock                  taken for moments: by who opens an entry, and by who prunes
federations/.locks                 how this cache is locked: flock or lease
federations/KEY/rounds/            whole rounds
                private/           what clients keep for themselves after each of these, where they do: a file a client
                training.json      what the key stands for, for people
                keep.json          numbers of the rounds that some run asked to keep
                train.lock         held by the process that trains here
                leases/            one held lock for every process that uses the entry; its death frees it
bases/KEY.safetensors              models that federations of language start from (`federation/warm_start.py`)
partitions/KEY.safetensors         who was dealt which examples (`data/dealing.py`)

Several machines may share the folder. A `flock` belongs to the kernel, on NFSv4 and Lustre to the file server, and ends
with its holder. Where there is none, a `lease` is a file whose holder touches it again and again: a holder of this
machine that is dead is found out at once, one of another when its file has stayed untouched for `LEASE` seconds. Nobody
compares clocks: waiting is timed by who waits, ages by times of files that the same server has stamped.

What is none of these files is left alone: nothing that ProvFL has not made is deleted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, SoftFileLease, Timeout

from ..bounded import read_text
from ..errors import InputError, RunError
from .locks import LEASE, give_back, lock
from .rounds import Round, read_round, remove_leftovers, remove_round, stored_rounds
from .sealed import check_seal, sealed
from .tensorfile import remedy

POLL = 0.2  # seconds between two looks at a lock that another process holds
KEEP_FORMAT = 2  # of keep.json; 1 was a bare list, without a checksum
LEASE_FILE = re.compile(r"\d+-[0-9a-f]{8}\.lock")


@dataclass(frozen=True)
class Entry:
    """The stored rounds of one federation; `kind` of its locks: `flock` or `lease`."""

    folder: Path
    kind: str = "flock"

    @property
    def rounds(self) -> Path:
        """The folder of the rounds."""
        return self.folder / "rounds"

    def stored(self) -> list[int]:
        """Numbers of the whole rounds on disk, ascending."""
        return stored_rounds(self.rounds)

    @property
    def key(self) -> str:
        """The key of the federation."""
        return self.folder.name

    def kept(self) -> set[int]:
        """Numbers of the rounds that some run asked to keep; all there are where the list of them is damaged."""
        try:
            content = json.loads(read_text(self.folder / "keep.json"))
            if isinstance(content, dict):
                check_seal(content, since=1)
                content = content["rounds"]
            return {int(number) for number in content}
        except FileNotFoundError:
            return set()
        except (ValueError, KeyError, TypeError):
            return set(self.stored())
        except OSError as error:
            raise RunError(f"{self.folder / 'keep.json'} cannot be read ({error.strerror}): move it away") from error

    def keep(self, numbers: Iterable[int]) -> None:
        """Ask to keep these rounds, for this run and all later ones."""
        with locked(self.folder / "keep.lock", self.kind):
            content = sealed({"format": KEEP_FORMAT, "rounds": sorted(self.kept().union(numbers))})
            _replace(self.folder / "keep.json", json.dumps(content))

    def read(self, number: int) -> Round:
        """Open a stored round.

        Raises:
            RunError: it is damaged, or of another federation.
        """
        stored = read_round(self.rounds, number)
        if stored.source or stored.key not in (None, self.key):
            raise RunError(
                f"{stored.folder} is of another federation, {stored.source or stored.key}: {remedy(stored.folder)}"
            )
        return stored

    def drop(self, below: int) -> None:
        """Delete the rounds before round `below` that nobody asked to keep; only under the training lock."""
        with locked(self.folder / "keep.lock", self.kind):
            for number in set(self.stored()) - self.kept():
                if number < below:
                    remove_round(self.rounds, number)

    def tidy(self, below: int) -> None:
        """Clear what a killed process left, as `drop` and the start of training do, unless somebody trains here now."""
        with suppress(Timeout), locked(self.folder / "train.lock", self.kind, timeout=0):
            remove_leftovers(self.rounds)
            self.drop(below)

    @contextmanager
    def training(self, until: Callable[[], bool], waiting: Callable[[], None]) -> Iterator[bool]:
        """Hold the right to train here; yields False, without it, as soon as `until()` is true.

        Left-overs of a killed process are cleared first. `waiting()` is called once where another process holds it.

        Raises:
            RunError: on the way out, where another process has taken a lease over in the meantime.
        """
        held = _lock(self.folder / "train.lock", self.kind)
        announced = False
        while not until():
            try:
                _acquire(held, POLL if announced else 0)
                break
            except Timeout:
                if not announced:
                    waiting()
                announced = True
        else:
            yield False
            return
        try:
            if until():
                yield False
                return
            remove_leftovers(self.rounds)
            try:
                yield True
            finally:
                _check_still_held(held)
        finally:
            held.release()


@contextmanager
def open_entry(
    cache: Path, key: str, description: dict[str, object], max_gb: float, kind: str = "flock"
) -> Iterator[Entry]:
    """Open, or make, the entry of a federation; within the context nobody prunes it.

    What was used longest ago is pruned to `max_gb` (1e9 bytes) before and after.

    Args:
        cache: folder of the training cache.
        key: of the federation.
        description: what the key stands for.
        max_gb: how large the cache may be.
        kind: of the locks, `flock` or `lease`; the same on all machines that share the folder.

    Raises:
        InputError: the cache is locked in the other way.
        RunError: the folder cannot be used.
    """
    home = cache / "federations"
    entry = Entry(home / key, kind)
    with ExitStack() as stack:
        try:
            home.mkdir(parents=True, exist_ok=True)
            _agree(home, kind)
            with _lock(home / ".lock", kind):
                _refuse_links(entry)
                (entry.folder / "leases").mkdir(parents=True, exist_ok=True)
                entry.rounds.mkdir(exist_ok=True)
                stack.callback(give_back, _taken(entry.folder, kind))
                _replace(entry.folder / "training.json", json.dumps(description, indent=1, sort_keys=True) + "\n")
                _mark_used(entry.folder)
        except OSError as error:
            hint = ", or, where the file system has no flock, store.lock=lease" if kind == "flock" else ""
            raise RunError(
                f"the training cache {home} cannot be used ({error}): choose another with store.cache=DIR{hint}"
            ) from error
        prune(home, max_gb)
        stack.callback(prune, home, max_gb)  # while the lease is still held: what was just trained stays
        stack.callback(_mark_used, entry.folder)
        yield entry


@contextmanager
def in_use(rounds: Path) -> Iterator[None]:
    """Within the context nobody prunes the federation whose rounds these are; for folders of no cache it does nothing.

    Args:
        rounds: folder of the rounds, or a link to it.
    """
    folder = rounds.resolve().parent
    if not (folder / "leases").is_dir():
        yield
        return
    try:
        kind = lock_kind(folder.parent)
        with _lock(folder.parent / ".lock", kind):
            lease = _taken(folder, kind)
    except OSError:  # it may be read and not written, or has just been pruned: what is missing is found out on reading
        yield
        return
    try:
        yield
    finally:
        give_back(lease)


def prune(home: Path, max_gb: float) -> list[str]:
    """Delete the entries used longest ago until the rest takes at most `max_gb` (1e9 bytes); returns their keys.

    An entry that a process has open, on whatever machine, stays, whatever its size.
    """
    pruned: list[str] = []
    if not home.is_dir():
        return pruned
    kind = lock_kind(home)
    with locked(home / ".lock", kind):
        for leftover in home.glob(".*.removed"):
            shutil.rmtree(leftover, ignore_errors=True)
        entries = [folder for folder in home.iterdir() if is_entry(folder)]
        sizes = {folder: disk_usage(folder) for folder in entries}
        total = sum(sizes.values())
        for folder in sorted(entries, key=lambda folder: folder.stat().st_mtime):
            if total <= max_gb * 1e9:
                break
            if is_open(folder, kind):
                continue
            doomed = home / f".{folder.name}.removed"
            try:
                folder.rename(doomed)  # first out of sight, so that no half entry is ever found
            except OSError:  # it is not for us to delete
                continue
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
            except OSError:  # another process is at work here, or it is not for us to see
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


def is_entry(folder: Path) -> bool:
    """Whether a folder in the cache is that of a federation, not somebody's own such as `lost+found`."""
    return not folder.name.startswith(".") and not folder.is_symlink() and (folder / "leases").is_dir()


def _lock(path: Path, kind: str) -> BaseFileLock:
    return lock(path, kind, LEASE)


@contextmanager
def locked(path: Path, kind: str, timeout: float = -1) -> Iterator[None]:
    """Hold a lock of the cache; Timeout where somebody else holds it for longer, RunError where it cannot be locked."""
    held = _lock(path, kind)
    _acquire(held, timeout)
    try:
        yield
    finally:
        held.release()


def _acquire(held: BaseFileLock, timeout: float) -> None:
    try:
        held.acquire(timeout=timeout)
    except (Timeout, FileNotFoundError):  # the latter: the cache was cleared by hand
        raise
    except OSError as error:
        raise RunError(f"{held.lock_file} cannot be locked ({error.strerror or error})") from error


def _refuse_links(entry: Entry) -> None:
    """Raise InputError where a federation's folders are links: its rounds are replaced and deleted there."""
    for place in (entry.folder, entry.rounds):
        if place.is_symlink():
            raise InputError(f"{place}: is a link, which no training cache holds: remove it, or store.cache=DIR")


def lock_kind(home: Path) -> str:
    """How a cache is locked."""
    try:
        return read_text(home / ".locks", 100).strip()
    except FileNotFoundError:
        return "flock"
    except ValueError:
        return "something else"


def _agree(home: Path, kind: str) -> None:
    """Lock a cache as those do who share it: locks of two kinds do not see each other.

    Raises:
        InputError: they do it in the other way.
    """
    path = home / ".locks"
    if not path.exists():
        _replace(path, kind)
    theirs = lock_kind(home)
    if theirs != kind:
        raise InputError(
            f"store.lock={kind}: those who share {home.parent} lock it with store.lock={theirs}: take that too, or "
            f"delete {path} while no run uses it"
        )


def _check_still_held(held: BaseFileLock) -> None:
    if isinstance(held, SoftFileLease) and held.compromise is not None:
        raise RunError(
            f"{held.lock_file} gave no sign of life for {LEASE:g} seconds (this process or its file system was "
            "stopped), so that another process may train here; the same command continues from the last whole round"
        )


def _taken(folder: Path, kind: str) -> BaseFileLock:
    """A lease on an entry; only under the lock of the cache."""
    lease = _lock(folder / "leases" / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.lock", kind)
    lease.acquire()
    return lease


def is_open(folder: Path, kind: str) -> bool:
    """Whether a living process has the entry open; leases of dead ones are cleared away."""
    for path in (folder / "leases").glob("*.lock"):
        if not LEASE_FILE.fullmatch(path.name):
            continue
        held = _lock(path, kind)
        try:
            held.acquire(timeout=0)
        except Timeout:
            if kind == "lease" and _age(path) > 2 * LEASE:  # of a machine that does not touch it any more
                path.unlink(missing_ok=True)
                continue
            return True
        give_back(held)
    return False


def _age(path: Path) -> float:
    """Seconds since a file was touched, by the clock of the server that keeps it."""
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        probe.touch()
        with path.open("rb") as file:  # opened, so that NFS asks its server rather than its cache
            return probe.stat().st_mtime - os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:  # given back just now
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _mark_used(folder: Path) -> None:
    """Let the folder's time say when it was used last."""
    with suppress(FileNotFoundError):  # somebody has cleared the cache by hand
        os.utime(folder)


def _replace(path: Path, text: str) -> None:
    """Write a small file as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
