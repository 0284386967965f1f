"""Symbolic links in a folder that somebody else may have made: they must not lead to other files of this machine."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from ..errors import InputError

ROUNDS = "rounds"
ENTRY = re.compile(r"federations/[0-9a-f]{20}/rounds")  # the end of a path into a training cache


def refuse_links(folder: Path, hydra: str = ".hydra", done: str = "read") -> None:
    """Raise InputError where a run's folder, or its `hydra`, holds a link to something outside, beside `rounds`.

    Or a pipe or a device, at which who reads or writes would wait for ever.

    `done`: what is not done there, for the message.
    """
    for place in (folder, folder / hydra):
        for entry in os.scandir(place) if place.is_dir() else ():
            _refuse(Path(entry.path), folder, done)


def refuse_links_of_sweep(folder: Path) -> None:
    """The same, before jobs write into a sweep's folder and the folders below; other hidden ones are no job's."""
    for above, folders, files in os.walk(folder):
        for name in (*folders, *files):
            _refuse(Path(above) / name, folder, "written")
        folders[:] = [name for name in folders if not name.startswith(".") or name == ".hydra"]


def refuse_links_of_rounds(folder: Path) -> None:
    """Raise InputError where the rounds of a run lie neither in its folder nor in a training cache.

    Or where they hold links to other places.
    """
    rounds = folder / ROUNDS
    if not _inside(rounds, folder) and not ENTRY.fullmatch("/".join(rounds.resolve().parts[-3:])):
        raise InputError(f"{rounds}: is a link to a place that is no training cache: nothing is read there")
    _refuse_links_below(rounds)


def refuse_links_of_recording(folder: Path) -> None:
    """Raise InputError where a recorded federation, or one of its rounds, holds a link out of its folder."""
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


def _refuse(path: Path, folder: Path, done: str) -> None:
    mode = path.lstat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
        raise InputError(f"{path}: is a pipe or a device, no file: nothing is {done}")
    if path.is_symlink() and path.name != ROUNDS and not _inside(path, folder):
        raise InputError(f"{path}: is a link to a place outside of the run's folder: nothing is {done}")


def _inside(path: Path, folder: Path) -> bool:
    """Whether what `path` leads to lies in `folder`."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that lead round in a circle
        return False
