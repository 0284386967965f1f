"""A run folder while a run writes into it: what an earlier one left goes, the link to the rounds is set."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import RunError
from ..results.checksums import COVERED, FILE, SETTINGS
from ..results.repair import FILE as REPAIRED
from ..store.rounds import Round
from ..trackers.tensorboard import FOLDER as TENSORBOARD

ROUNDS = "rounds"
WRITTEN = (  # by a run, or of it, into its folder; `.hydra` is Hydra's
    *(name for name in COVERED if name not in SETTINGS),
    "table.md", "table.tex", "lineage.png", "lineage.pdf", "flower.log", "report.html", REPAIRED, FILE,
)  # fmt: skip


def clear(folder: Path) -> None:
    """Remove the results of an earlier run in this folder: none of them may stand beside those of this one.

    Raises:
        RunError: one of the names is that of a folder.
    """
    remove([*(folder / name for name in WRITTEN), *(folder / TENSORBOARD).glob("events.out.tfevents.*")])


def remove(paths: Iterable[Path]) -> None:
    """Remove the files that there are.

    Raises:
        RunError: one cannot be removed, such as a folder of its name.
    """
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            why = "is a folder" if path.is_dir() else str(error.strerror)
            raise RunError(
                f"{os.path.relpath(path)} is in the way of the run's results ({why}): move it away"
            ) from error


def link_rounds(folder: Path, stored: Round) -> None:
    """`link_to` where a round is stored."""
    link_to(folder, stored.folder.parent)


def link_to(folder: Path, rounds: Path) -> None:
    """Let `rounds` in the run folder point into the training cache, whatever it pointed to; at no time is it missing.

    Raises:
        RunError: something that is no link is in its place, or links cannot be made there.
    """
    link = folder / ROUNDS
    if link.exists() and not link.is_symlink():
        raise RunError(f"{os.path.relpath(link)} is in the way: a run keeps a link of that name; move it away")
    target = os.path.relpath(rounds.resolve(), folder.resolve())
    beside = folder / f".{ROUNDS}.{os.getpid()}.part"
    try:
        beside.unlink(missing_ok=True)
        beside.symlink_to(target, target_is_directory=True)
        os.replace(beside, link)
    except OSError as error:
        raise RunError(f"{link}: the link to the rounds cannot be made ({error.strerror or error})") from error
