"""The training cache where several machines share its folder: locks that outlive nobody, and what is never pruned."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from filelock import SoftFileLease

from provfl_cli.config.schema import Store
from provfl_cli.errors import InputError, RunError
from provfl_cli.store import cache as caching
from provfl_cli.store.cache import Entry, in_use, open_entry, prune
from provfl_cli.store.locks import BEATS

LEASE = 1.0  # seconds, in these tests
KINDS = ("flock", "lease")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "LEASE", LEASE)


def hold(cache: Path, kind: str, train: bool, pipe: Connection) -> None:
    """Open an entry in a process of its own, and train there or not, until told to end."""
    caching.LEASE = LEASE
    with open_entry(cache, "k", {}, 1000, kind) as entry:
        if train:
            with entry.training(until=lambda: False, waiting=lambda: None):
                (entry.rounds / ".0001.partial").mkdir()
                pipe.send("here")
                pipe.recv()
        else:
            pipe.send("here")
            pipe.recv()


@contextmanager
def holder(cache: Path, kind: str, train: bool = False) -> Iterator[multiprocessing.Process]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(cache, kind, train, theirs), daemon=True)
    process.start()
    try:
        assert ours.recv() == "here"
        yield process  # type: ignore[misc]
        with suppress(BrokenPipeError):
            ours.send("end")
        process.join()
    finally:
        process.kill()
        process.join()


def elsewhere(folder: Path, skew: float = 0.0) -> list[Path]:
    """Let the leases that dead processes left be those of another machine, last touched `skew` seconds from now."""
    markers = [path for path in folder.rglob("*.lock") if path.stat().st_size]
    for path in markers:
        text = path.read_text()
        assert socket.gethostname() in text
        path.write_text(text.replace(socket.gethostname(), "elsewhere"))
        os.utime(path, (time.time() + skew,) * 2)
    return markers


def train_when_free(entry: Entry) -> float:
    """Seconds until this process may train."""
    began = time.monotonic()
    with entry.training(until=lambda: time.monotonic() - began > 20, waiting=lambda: None) as ours:
        assert ours
        return time.monotonic() - began


@pytest.mark.parametrize("kind", KINDS)
def test_only_one_process_trains_and_nobody_prunes_what_it_has_open(tmp_path: Path, kind: str, short: None) -> None:
    looks: list[int] = []

    def until() -> bool:
        looks.append(1)
        return len(looks) > 3

    with holder(tmp_path, kind, train=True):
        with open_entry(tmp_path, "k", {}, 1e-9, kind) as entry, entry.training(until, lambda: None) as ours:
            assert not ours
        assert prune(tmp_path / "federations", 1e-9) == []
    assert prune(tmp_path / "federations", 1e-9) == ["k"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_holder_holds_nothing(tmp_path: Path, kind: str, short: None) -> None:
    with holder(tmp_path, kind, train=True) as process:
        process.kill()
        process.join()
    with open_entry(tmp_path, "k", {}, 1000, kind) as entry:
        assert list((entry.folder / "leases").iterdir())
        assert train_when_free(entry) < 0.9 * LEASE  # a dead process of this machine is not waited for
        assert list(entry.rounds.iterdir()) == []  # what it left is cleared
    assert prune(tmp_path / "federations", 1e-9) == ["k"]


@pytest.mark.slow
@pytest.mark.parametrize("skew", [-3600.0, 0.0, 3600.0])
def test_a_dead_machine_is_waited_for_by_our_own_clock(tmp_path: Path, short: None, skew: float) -> None:
    with holder(tmp_path, "lease", train=True) as process:
        process.kill()
        process.join()
    markers = elsewhere(tmp_path, skew)  # whatever its clock says
    assert len(markers) == 2
    with open_entry(tmp_path, "k", {}, 1000, "lease") as entry:
        assert 0.9 * LEASE < train_when_free(entry) < 5 * LEASE


def test_what_another_machine_has_open_is_pruned_only_when_it_is_dead(tmp_path: Path, short: None) -> None:
    with holder(tmp_path, "lease") as process:
        process.kill()
        process.join()
    (marker,) = elsewhere(tmp_path)
    assert prune(tmp_path / "federations", 1e-9) == []
    marker.touch()  # a sign of life
    assert prune(tmp_path / "federations", 1e-9) == []
    os.utime(marker, (time.time() - 3 * LEASE,) * 2)
    assert prune(tmp_path / "federations", 1e-9) == ["k"]
    assert not list((tmp_path / "federations").glob("k*"))


def test_a_lease_shows_signs_of_life(tmp_path: Path, short: None) -> None:
    with open_entry(tmp_path, "k", {}, 1000, "lease") as entry:
        (marker,) = (entry.folder / "leases").iterdir()
        before = marker.stat().st_mtime_ns
        time.sleep(0.5 * LEASE)
        assert marker.stat().st_mtime_ns > before
    assert list((entry.folder / "leases").iterdir()) == []


def train_until_overtaken(entry: Entry, other: SoftFileLease) -> None:
    with entry.training(until=lambda: False, waiting=lambda: None):
        Path(other.lock_file).unlink()
        other.acquire(timeout=5)
        time.sleep(0.6 * LEASE)
        raise FileNotFoundError("the other one has cleared .0001.partial away")


def test_a_trainer_whose_lease_was_taken_over_is_told(tmp_path: Path, short: None) -> None:
    with open_entry(tmp_path, "k", {}, 1000, "lease") as entry:
        marker = entry.folder / "train.lock"
        other = SoftFileLease(marker, lease_duration=LEASE, heartbeat_interval=LEASE / BEATS)
        with pytest.raises(RunError, match=r"no sign of life .* continues from the last whole round"):
            train_until_overtaken(entry, other)
        assert other.is_lock_held_by_us  # and not taken from it
        other.release()


@pytest.mark.parametrize("kind", KINDS)
def test_who_only_reads_is_not_pruned_either(tmp_path: Path, kind: str, short: None) -> None:
    with open_entry(tmp_path, "k", {}, 1000, kind) as entry:
        (tmp_path / "link").symlink_to(entry.rounds)
    with in_use(tmp_path / "link"):
        assert prune(tmp_path / "federations", 1e-9) == []
    assert prune(tmp_path / "federations", 1e-9) == ["k"]
    with in_use(tmp_path / "link"), in_use(tmp_path):  # nothing there any more; a folder of no cache
        pass


def test_two_kinds_of_locks_do_not_mix(tmp_path: Path) -> None:
    with open_entry(tmp_path, "k", {}, 1000, "lease"):
        pass
    with (
        pytest.raises(InputError, match=r"store\.lock=flock: .* lock it with store\.lock=lease: .* delete .*\.locks"),
        open_entry(tmp_path, "k", {}, 1000),
    ):
        pass
    (tmp_path / "federations" / ".locks").unlink()
    with open_entry(tmp_path, "k", {}, 1000):
        pass
    with pytest.raises(InputError, match=r"store\.lock=nfs: .*flock"):
        Store("c", "last", 1.0, "nfs")


def test_a_file_system_without_flock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", missing)
    with pytest.raises(RunError, match=r"store\.lock=lease"), open_entry(tmp_path, "k", {}, 1000):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_what_two_processes_ask_to_keep_at_once_adds_up(tmp_path: Path, kind: str) -> None:
    context = multiprocessing.get_context("fork")

    def ask(first: int) -> None:
        with open_entry(tmp_path, "k", {}, 1000, kind) as entry:
            for number in range(first, first + 5):
                entry.keep({number})

    processes = [context.Process(target=ask, args=(first,)) for first in (1, 11)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert Entry(tmp_path / "federations" / "k", kind).kept() == {*range(1, 6), *range(11, 16)}
