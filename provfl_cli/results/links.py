"""Symbolic links in a folder that somebody else may have made: they must not lead to other files of this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import InputError

ROUNDS = "rounds"
ENTRY = re.compile(r"federations/[0-9a-f]{20}/rounds")  # the end of a path into a training cache


def refuse_links(folder: Path) -> None:
    """Raise InputError where a run's folder, or its `.hydra`, holds a link to something outside, beside `rounds`."""
    for place in (folder, folder / ".hydra"):
        for entry in os.scandir(place) if place.is_dir() else ():
            if entry.is_symlink() and entry.name != ROUNDS and not _inside(Path(entry.path), folder):
                raise InputError(f"{entry.path}: is a link to a place outside of its folder: nothing is read")


def refuse_links_of_rounds(folder: Path) -> None:
    """Raise InputError where the rounds of a run lie neither in its folder nor in a training cache.

    Or where they hold links to other places.
    """
    rounds = folder / ROUNDS
    if not _inside(rounds, folder) and not ENTRY.fullmatch("/".join(rounds.resolve().parts[-3:])):
        raise InputError(f"{rounds}: is a link to a place that is no training cache: nothing is read there")
    _refuse_links_below(rounds)


def refuse_links_of_recording(folder: Path) -> None:
    """Raise InputError where a recorded federation, or one of its rounds, holds a link to something outside of it."""
    refuse_links(folder)
    rounds = folder / ROUNDS
    if not _inside(rounds, folder):
        raise InputError(f"{rounds}: is a link to a place outside of the recording's folder: nothing is read")
    _refuse_links_below(rounds)


def _refuse_links_below(rounds: Path) -> None:
    for above, folders, files in os.walk(rounds.resolve()):
        for name in (*folders, *files):
            path = Path(above) / name
            if path.is_symlink() and not _inside(path, rounds):
                raise InputError(f"{path}: is a link to a place outside of the rounds: nothing is read there")


def _inside(path: Path, folder: Path) -> bool:
    """Whether what `path` leads to lies in `folder`."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that lead round in a circle
        return False
