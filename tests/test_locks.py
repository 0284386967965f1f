"""Folders held by who writes into them."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, SoftFileLease

from provfl_cli.store.locks import CLAIM, FolderClaimed, claim, claimed, give_back

KINDS = ("flock", "lease")


@pytest.mark.parametrize("kind", KINDS)
def test_one_at_a_time_and_nothing_is_left(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with claimed(folder, kind):
        for _ in range(2):
            with pytest.raises(FolderClaimed, match="another process is writing into it"), claimed(folder, kind):
                pass
    with claimed(folder, kind):
        pass
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_who_waits_goes_on_when_the_folder_is_free_or_gone(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    held = claim(folder, kind)
    got = threading.Event()

    def wait() -> None:
        with claimed(folder, kind, wait=20):
            got.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not got.wait(0.2)
    give_back(held)
    try:
        folder.rmdir()  # as who has found nothing to keep does
    except OSError:  # it was faster
        assert got.wait(5)
    waiting.join(20)
    assert got.is_set()


def hold_and_die(folder: Path, kind: str) -> None:
    held = claim(folder, kind)
    assert held.is_locked
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_claim_of_a_killed_process_ends_with_it(kind: str, tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=hold_and_die, args=(tmp_path, kind))
    process.start()
    process.join()
    assert process.exitcode == -9
    assert (tmp_path / CLAIM).exists()
    with claimed(tmp_path, kind):
        pass
    assert not (tmp_path / CLAIM).exists()


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(errno.ENOLCK, "No locks available")])
def test_without_flock_it_is_a_lease(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", fails)
    held = claim(tmp_path)
    assert isinstance(held, SoftFileLease)
    with pytest.raises(FolderClaimed):
        claim(tmp_path)
    give_back(held)


def test_a_folder_that_cannot_be_made_is_the_systems_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="File exists"):
        claim(tmp_path / "file")
