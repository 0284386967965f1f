"""Run folders read back: where they are, the settings each was made with, its metrics, or why it has none."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..bounded import read_end, read_json
from ..config.stored_config import settings_view
from ..errors import InputError, did_you_mean
from ..store.recorded import is_recorded
from ..store.sealed import Damaged
from .checksums import COVERED, FIGURES, FILE, SETTINGS, damage, read_manifest
from .columns import run_table
from .documents import read_figures, read_metrics
from .links import refuse_links
from .wrong import WrongContent

if TYPE_CHECKING:
    import pandas as pd

Content = TypeVar("Content")
OWN_FILES = ("summary.json", "localization.csv", "error.log")
FAILURES = "failures.json"  # of a sweep: jobs whose folder is gone again, since nothing was computed
IDENTITY = ("method", "scope", "target", "round")  # of a row of localization.csv; the other columns are metrics
INFINITE = "epsilon infinite"  # how the text beside epsilon begins where there was no noise


@dataclass(frozen=True)
class RunFolder:
    """A run that ended well.

    Attributes:
        folder: where it is.
        settings: the resolved leaves of its configuration by dotted key.
        following: keys whose value is an interpolation of others.
        chosen: the option taken in each config group.
        overridden: keys that the command line (or the sweep) set.
        scores: the rows of `localization.csv`.
        figures: `summary.json`.
        accuracy: of the global model, by round.
    """

    folder: Path
    settings: Mapping[str, Any]
    following: frozenset[str]
    chosen: Mapping[str, str | None]
    overridden: frozenset[str]
    scores: pd.DataFrame
    figures: Mapping[str, Any]
    accuracy: Mapping[int, float]

    @property
    def seed(self) -> Any:
        """What runs of the same settings are told apart by."""
        return self.settings.get("seed", self.figures.get("seed"))


@dataclass(frozen=True)
class MissingRun:
    """A run that no table can show, and why."""

    name: str
    reason: str  # one line


def run_folders(places: Sequence[Path]) -> list[Path]:
    """All run folders among and below `places`, each once, those below a folder in the order of their numbers.

    Plain files are passed over, since the shell's `*` names them too.

    Raises:
        InputError: there is no such place, or no run in any of them.
    """
    folders: dict[Path, Path] = {}
    for place in places:
        if not place.exists():
            beside = place.absolute().parent
            near = [path.name for path in beside.iterdir() if path.is_dir()] if beside.is_dir() else []
            answer = did_you_mean(place.name, near)
            raise InputError(f"{place}: no such folder" + (f", {answer}" if answer.endswith("?") else ""))
        for folder in folders_below(place):
            folders.setdefault(folder.resolve(), folder)
    if not folders:
        for place in filter(is_recorded, places):
            raise InputError(
                f"{place}: is a recorded federation, of which nothing was measured: provfl ls {place} lists its "
                f"rounds, provfl report {place} --model MODEL --data DATA traces them"
            )
        where = " ".join(map(str, places))
        raise InputError(f"{where}: no run in it; give folders that provfl run made, such as outputs/DATE/TIME")
    return list(folders.values())


def folders_below(place: Path) -> Iterator[Path]:
    """The run folders in a folder, or the folder itself, in the order of their numbers."""
    if not place.is_dir():
        return
    if (place / ".hydra" / "config.yaml").is_file() or any((place / name).is_file() for name in OWN_FILES):
        yield place
        return
    try:
        there = sorted(place.iterdir(), key=_by_number)
    except OSError as error:
        raise InputError(f"{place} cannot be read ({error.strerror})") from error
    for inside in there:
        if inside.is_dir() and not inside.is_symlink() and not inside.name.startswith("."):
            yield from folders_below(inside)


def _by_number(path: Path) -> list[tuple[bool, int, str]]:
    """Job 2 before job 10."""
    parts = re.split(r"(\d+)", path.name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def failures_below(places: Sequence[Path]) -> list[MissingRun]:
    """Jobs of sweeps among and below `places` that left no folder."""
    files = {
        path.resolve(): path
        for place in places
        if place.is_dir()
        for path in [*place.rglob(FAILURES)]
        if path.parent.is_dir()
    }
    missing = []
    for path in files.values():
        try:
            rows = read_json(path)["failures"]
            missing += [
                MissingRun(row["job"], row["message"]) for row in rows if not (path.parent / row["folder"]).exists()
            ]
        except (OSError, ValueError, KeyError, TypeError):
            missing.append(MissingRun(os.path.relpath(path), "cannot be read"))
    return missing


def read_run(folder: Path, whole: bool = False) -> RunFolder | MissingRun:
    """A run folder, or why it has nothing to show: it failed, it has not ended (yet), or a file is damaged.

    `whole`: look at the checksums of all its files, not only of those that are read here.
    """
    name = os.path.relpath(folder)
    try:
        refuse_links(folder)
    except InputError as error:
        return MissingRun(name, str(error))
    if (folder / "error.log").is_file():
        return MissingRun(name, f"failed: {_last_words(folder / 'error.log')}")
    if not (folder / "summary.json").is_file():
        return MissingRun(name, "not finished: it was stopped, or still runs")
    try:
        if wrong := damage(folder, read_manifest(folder), COVERED if whole else (*SETTINGS, *FIGURES)):
            return MissingRun(name, wrong)
        config = settings_view(folder)
        return RunFolder(
            folder,
            config.settings,
            config.following,
            config.chosen,
            config.overridden,
            _scores(folder / "localization.csv"),
            _figures(folder / "summary.json"),
            _accuracy(folder / "metrics.jsonl"),
        )
    except FileNotFoundError as error:
        return MissingRun(name, f"{os.path.relpath(str(error.filename), folder)} is missing")
    except (InputError, WrongContent) as error:
        return MissingRun(name, str(error))
    except Damaged as error:
        return MissingRun(name, f"{FILE} cannot be read ({error})")
    except Exception as error:  # whatever a damaged file makes its reader say
        return MissingRun(name, f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})")


def _last_words(path: Path) -> str:
    """The exception at the end of a traceback, in one line."""
    lines = read_end(path).splitlines()
    ends = [number for number, line in enumerate(lines) if re.match(r"[\w.]+(: |$)", line)]
    text = " ".join(" ".join(lines[ends[-1] :] if ends else lines[-1:]).split())
    return text.removeprefix("provfl_cli.errors.RunError: ")[:300]


def _read(path: Path, reader: Callable[[Path], Content]) -> Content:
    """What `reader` makes of a file; what it finds wrong is said with the file's name."""
    try:
        return reader(path)
    except WrongContent as error:
        raise WrongContent(f"{path.name}: {error}") from error
    except ValueError as error:
        if path.suffix == ".csv":  # in pandas' words
            raise
        raise WrongContent(f"{path.name} cannot be read: {' '.join(str(error).split())[:200]}") from error


def _scores(path: Path) -> pd.DataFrame:
    return _read(path, run_table)


def _figures(path: Path) -> dict[str, Any]:
    figures = _read(path, read_figures)
    if figures.get("epsilon") is None and str(figures.get("privacy", "")).startswith(INFINITE):
        figures["epsilon"] = float("inf")
    return figures


def _accuracy(path: Path) -> dict[int, float]:
    return {row["round"]: row["accuracy"] for row in _read(path, read_metrics)}
