"""The folder of a recording as `ProvenanceStrategy` asks for it; what is said of it goes to Flower's log."""

from __future__ import annotations

from logging import WARNING
from pathlib import Path

from filelock import BaseFileLock
from flwr.supercore import log

from ..recording import place

RECORDER = "ProvenanceStrategy"


def look(folder: Path, first: int | None, must: bool) -> None:
    """Raise InputError where the folder cannot be recorded into: see `recording.place.look`."""
    place.look(RECORDER, folder, first, must)


def check_continues(folder: Path, first: int | None) -> None:
    """Raise InputError where the folder holds rounds that round `first` does not continue."""
    place.check_continues(RECORDER, folder, first)


def take(folder: Path, must: bool) -> tuple[Path, BaseFileLock]:
    """Hold the folder, or a new one beside it, which the log then says: see `recording.place.take`."""
    taken, held = place.take(RECORDER, folder, must)
    if taken != folder:
        log(WARNING, "ProvFL: another server records into %s: this one is recorded in %s", folder, taken)
    return taken, held
