"""A run and its tracker: what is told when, and what happens where the tracker fails."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.text import Text

from ..comparison.settings import NO_RESULT
from ..config.environment import EnvironmentValue, masked
from ..config.parts import Log, Tracker
from ..config.plain import as_text
from ..config.schema import Config
from ..config.stored_config import leaves
from ..errors import InputError
from ..harmless import harmless
from ..reporting.figures import KINDS, draw, save
from ..reporting.tables import localization_tables, to_markdown
from ..results.folders import RunFolder, read_run
from ..results.run import read_contents
from ..store.rounds import Metrics
from .tracker import numbers

if TYPE_CHECKING:
    import pandas as pd


class Tracking:
    """Tells a run to its tracker. One that fails is asked no more: it is said, now and at the end, and the run goes on.

    Attributes:
        lost: why nothing more is logged, in one line; "" while all is well.
    """

    def __init__(self, tracker: Tracker | None, console: Console) -> None:
        self.lost = ""
        self._tracker, self._console = tracker, console
        self._log: Log | None = None
        self._where = self._look = ""
        self._told: set[int] = set()
        self._taken: tuple[EnvironmentValue, ...] = ()  # from the environment: said nowhere

    def start(self, settings: Mapping[str, Any], folder: Path, taken: Sequence[EnvironmentValue] = ()) -> None:
        """Open the log, once the workers are forked: trackers have threads, which do not survive that.

        Args:
            settings: of the run, by dotted key (`settings_of`).
            folder: of the run.
            taken: values of the environment, which no line says.
        """
        if self._tracker is None:
            return
        self._taken = tuple(taken)
        try:
            self._log = self._tracker.start(settings, folder)
            self._where, self._look = self._log.where, self._log.look
            self._say(f"tracker: {self._where}")
        except Exception as error:
            self._give_up(error)

    def rounds(self, history: Iterable[Metrics]) -> None:
        """The rounds that were not told yet."""
        for metrics in history:
            if metrics.round not in self._told:
                self._told.add(metrics.round)
                values = {**asdict(metrics), "failed": len(metrics.failed)}
                del values["round"]
                self._tell(lambda log, at=metrics.round, values=values: log.round(at, _named("rounds", values)))  # type: ignore[misc]

    def results(self, summary: Mapping[str, Any], scores: pd.DataFrame, note: str, folder: Path) -> None:
        """The run has come to its end: localization by round, its table, the final figures, the figures drawn.

        Args:
            summary: what `summary.json` holds.
            scores: what `localization.csv` holds.
            note: what stands below its table.
            folder: of the run; all its files are there.
        """
        if self._log is None:
            return
        for row in scores.to_dict("records"):
            method = str(row["method"]) if row["scope"] == "round" else f"{row['method']} {row['scope']}"
            values = {str(name): value for name, value in row.items() if name != "round"}
            self._tell(lambda log, row=row, at=method, values=values: log.round(row["round"], _named(at, values)))  # type: ignore[misc]
        self._tell(lambda log: log.table("localization", scores, to_markdown(localization_tables(scores), note)))
        self._tell(lambda log: log.figures(summary))
        self._tell(lambda log: _draw(folder, log))

    def end(self, failed: bool) -> None:
        """Close the log, and say once more where it is, or that it was lost."""
        self._tell(lambda log: log.end(failed))
        if self.lost:
            self._say(f"\n{self.lost}", "bold red")
        elif self._where:
            self._say(f"\ntracker: {self._where}" + (f"\n  {self._look}" if self._look else ""))

    def _tell(self, what: Callable[[Log], None]) -> None:
        if self._log is None:
            return
        try:
            what(self._log)
        except Exception as error:
            self._give_up(error)

    def _say(self, line: str, style: str = "") -> None:
        """Lines as they are, however narrow the console: commands in them are copied."""
        for part in line.split("\n"):
            self._console.print(Text(harmless(masked(part, self._taken)), style=style), soft_wrap=True)

    def _give_up(self, error: Exception) -> None:
        log, self._log = self._log, None
        reason = " ".join(str(error).split())[:200]
        name = type(self._tracker).__name__
        self.lost = f"TRACKER FAILED: {name} has not got all of this run ({type(error).__name__}: {reason})"
        self._say(f"{self.lost}; the run goes on, its log file tells more", "bold red")
        trace = masked("".join(traceback.format_exception(error)), self._taken)
        logging.getLogger(__name__).error("the tracker failed\n%s", trace)  # into the run's own log file
        if log is not None:
            with suppress(Exception):  # what it has may still be closed
                log.end(True)


@contextmanager
def tracked(tracker: Tracker | None, console: Console) -> Iterator[Tracking]:
    """A run's tracking, closed when the block is left, however that happens."""
    tracking = Tracking(tracker, console)
    try:
        yield tracking
    except BaseException:
        tracking.end(failed=True)
        raise
    tracking.end(failed=False)


def settings_of(config: Config) -> dict[str, Any]:
    """All settings that a result depends on, by dotted key; a class under its block's name (`fusion: FedAvg`)."""
    settings: dict[str, Any] = {}
    for key, value in leaves(yaml.safe_load(as_text(config))):
        block, _, last = key.rpartition(".")
        if key.partition(".")[0] not in NO_RESULT:
            settings[block if last == "_target_" else key] = value.rpartition(".")[2] if last == "_target_" else value
    written = {variable.key: variable.written for variable in config.environment}
    settings = {
        key: written.get(key, masked(value, config.environment, "dataset", "model")) for key, value in settings.items()
    }
    return {**settings, "attribution": ",".join(method.name for method in config.attribution)}


def _named(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in numbers(values)}


def _draw(folder: Path, log: Log) -> None:
    """Hand over the PNG files of a run, and what `provfl figure` would draw of it."""
    for path in sorted(folder.glob("*.png")):
        log.picture(path)
    run = read_run(folder)
    if not isinstance(run, RunFolder):  # one that Hydra did not start
        return
    opened = read_contents(run)
    with TemporaryDirectory() as place:
        for kind in KINDS:
            drawn = Path(place) / f"{kind}.png"
            with suppress(InputError):  # there is nothing of this kind to draw
                save(draw(opened, kind), drawn)
                log.picture(drawn)
