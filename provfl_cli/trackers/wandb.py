"""Weights & Biases: a run kept in the run folder until `wandb sync`, or sent as it goes."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import one_of
from ..config.parts import Log
from .tracker import composed_files, name_of, numbers, require

if TYPE_CHECKING:
    import pandas as pd
    from wandb import Run

MODES = ("offline", "online", "disabled")


@dataclass(frozen=True)
class WandB:
    """Whether anything is sent, and to which project."""

    mode: str = "offline"
    project: str = "provfl"
    entity: str | None = None

    def __post_init__(self) -> None:
        one_of("tracker.mode", self.mode, MODES)

    def check(self) -> None:
        """Raise InputError without the package."""
        require("wandb")

    def start(self, settings: Mapping[str, Any], folder: Path) -> Log:
        """Make the run; the jobs of a sweep are one group."""
        if self.mode != "online":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read on import; offline means offline
        import wandb

        mode: Any = self.mode  # one of the words that it takes
        swept = (folder.parent / "multirun.yaml").is_file()
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=mode,
            name=name_of(folder),
            group=name_of(folder.parent) if swept else None,
            dir=str(folder),
            config=dict(settings),
            reinit="create_new",  # the jobs of a sweep share a process
            settings=wandb.Settings(console="off", silent=True),  # the console belongs to the run's own display
        )
        # Every value comes with its round, so that what is known later need not come in wandb's own order of steps.
        run.define_metric("round")
        run.define_metric("*", step_metric="round")
        for path in composed_files(folder):
            copied = Path(run.dir) / f"composed_{path.name}"  # a link would break where the run folder moves
            shutil.copyfile(path, copied)
            run.save(str(copied), base_path=run.dir, policy="now", glob=False)
        return WandBLog(run, self.mode)


class WandBLog:
    """History by round, the final figures as the run's summary, tables and pictures."""

    def __init__(self, run: Run, mode: str) -> None:
        self._run, self._mode = run, mode

    @property
    def where(self) -> str:
        """The folder that holds the run until it is sent."""
        if self._mode == "offline":
            return f"wandb, {self._place} (offline)"
        return f"wandb, {self._mode}"

    @property
    def look(self) -> str:
        """The page of the run, or how it is sent there."""
        if self._mode == "offline":
            return f"wandb sync {shlex.quote(self._place)}"
        return self._run.url or ""

    @property
    def _place(self) -> str:
        return os.path.relpath(Path(self._run.dir).parent)

    def round(self, number: int, values: Mapping[str, float]) -> None:
        """One row of the history."""
        self._run.log({"round": number, **values})

    def figures(self, summary: Mapping[str, Any]) -> None:
        """Beside the run in wandb's list."""
        self._run.summary.update({f"summary/{name}": value for name, value in numbers(summary)})
        self._run.summary.update({name: value for name, value in summary.items() if isinstance(value, str)})

    def table(self, name: str, frame: pd.DataFrame, text: str) -> None:
        """The frame; wandb shows it as a table."""
        import wandb

        rows = frame.astype(object).where(frame.notna(), None)
        self._run.log({name: wandb.Table(columns=list(frame.columns), data=rows.to_numpy())})

    def picture(self, path: Path) -> None:
        """The picture, copied into the run."""
        import wandb

        self._run.log({f"figures/{path.stem}": wandb.Image(str(path))})

    def end(self, failed: bool) -> None:
        """Flush, and say how the run ended."""
        self._run.finish(exit_code=int(failed))
