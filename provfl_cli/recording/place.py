"""The folder of a recording: looked at before training, held while a server records; a second server has its own.

`recorder` is what the user calls the recorder, for messages.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

from filelock import BaseFileLock

from ..errors import InputError
from ..store.locks import FolderClaimed, claim, claimed
from ..store.recorded import require_no_run
from ..store.rounds import stored_rounds


def look(recorder: str, folder: Path, first: int | None, must: bool) -> None:
    """Raise InputError where the folder cannot be recorded into; it is made where it is missing.

    Args:
        recorder: who asks.
        folder: where to record.
        first: number of the round that continues it; None: it is a new recording.
        must: the recording may be in no other folder.
    """
    require_no_run(folder, recorder)
    for place in (folder, folder / "rounds"):
        if place.exists() and not place.is_dir():
            raise InputError(f"{recorder}: {place} is not a folder: give another one")
    try:
        with claimed(folder):
            check_continues(recorder, folder, first)
    except FolderClaimed:
        if must:
            raise _refused(recorder, folder) from None
    except OSError as error:
        raise InputError(
            f"{recorder}: {folder} cannot be written to ({error.strerror}): give another folder"
        ) from error


def check_continues(recorder: str, folder: Path, first: int | None) -> None:
    """Raise InputError where the folder holds rounds that round `first` does not continue."""
    stored = stored_rounds(folder / "rounds")
    if stored and (first is None or first <= stored[-1]):
        raise InputError(
            f"{recorder}: {folder} holds rounds up to {stored[-1]}: give another folder, or "
            f"first_round={stored[-1] + 1} to continue it"
        )


def take(recorder: str, folder: Path, must: bool) -> tuple[Path, BaseFileLock]:
    """Hold the folder until its lock is given back; where another server records into it, a new one beside it.

    Returns:
        The folder that is held, and its lock.

    Raises:
        InputError: another server does, and `must`.
        OSError: it cannot be written to.
    """
    try:
        return folder, claim(folder)
    except FolderClaimed:
        if must:
            raise _refused(recorder, folder) from None
    for number in count(2):
        whole = folder.resolve()
        beside = whole.with_name(f"{whole.name}-{number}")
        try:
            beside.mkdir()
            return beside, claim(beside)
        except (FileExistsError, FolderClaimed):
            continue
    raise AssertionError("unreachable")


def _refused(recorder: str, folder: Path) -> InputError:
    return InputError(
        f"{recorder}: another server records into {folder}: give another folder, or wait until it has ended"
    )
