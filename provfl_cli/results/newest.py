"""The newest run below a folder: what `last` stands for on the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

FILE = "manifest.json"  # as `checksums.py` has it, which numpy comes with

DEEPEST = 4  # folders from outputs/ down to a job of a sweep: multirun/DATE/TIME/JOB


def newest_run(below: Path) -> Path | None:
    """The folder of the run below `below` that ended last; None where none has ended well.

    A run has ended well where its manifest is there, which it writes last; links are not followed.
    """
    ended = list(_manifests(below, DEEPEST))
    return max(ended)[1] if ended else None


def _manifests(folder: Path, deeper: int) -> Iterator[tuple[float, Path]]:
    """When each run in a folder ended, and its folder."""
    try:
        with os.scandir(folder) as entries:
            there = {entry.name: entry for entry in entries}
    except OSError:  # there is none, or it is not for us to see
        return
    if ".hydra" in there and FILE in there:
        with suppress(OSError):  # deleted just now
            yield there[FILE].stat().st_mtime, folder
        return
    for name, entry in there.items():
        if deeper and name != "cache" and not name.startswith(".") and entry.is_dir(follow_symlinks=False):
            yield from _manifests(folder / name, deeper - 1)
