"""TensorBoard: event files in the run's own folder, so that `--logdir outputs` shows every run beside the others."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..comparison.settings import written
from ..config.parts import Log
from ..data.picture import open_picture
from .tracker import composed_files, numbers, require

if TYPE_CHECKING:
    import pandas as pd
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"  # in the run folder


@dataclass(frozen=True)
class TensorBoard:
    """Event files, with nothing to set."""

    def check(self) -> None:
        """Raise InputError without the package."""
        require("tensorboard")

    def start(self, settings: Mapping[str, Any], folder: Path) -> Log:
        """Write the composed configuration; an earlier run's events in the same folder go, as its other files do."""
        from torch.utils.tensorboard import SummaryWriter

        place = folder / FOLDER
        for stale in place.glob("events.out.tfevents.*"):
            stale.unlink()
        log = TensorBoardLog(SummaryWriter(str(place)), settings, place)
        for path in composed_files(folder):
            log.text(path.stem, "".join(f"    {line}\n" for line in path.read_text(encoding="utf-8").splitlines()))
        return log


class TensorBoardLog:
    """Scalars by round, texts, images, and the settings beside the final figures in the tab HParams."""

    def __init__(self, writer: SummaryWriter, settings: Mapping[str, Any], place: Path) -> None:
        self._writer, self._settings, self._place = writer, settings, place
        self._last = 0

    @property
    def where(self) -> str:
        """The folder that holds the event file."""
        return f"TensorBoard, {os.path.relpath(self._place)}"

    @property
    def look(self) -> str:
        """The command that shows this run; of a folder above it: all runs there."""
        return f"tensorboard --logdir {shlex.quote(os.path.relpath(self._place))}"

    def text(self, name: str, markdown: str) -> None:
        """Show Markdown in the tab Text."""
        self._writer.add_text(name, markdown)
        self._writer.flush()

    def round(self, number: int, values: Mapping[str, float]) -> None:
        """One point of each curve."""
        self._last = max(self._last, number)
        for name, value in values.items():
            self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def figures(self, summary: Mapping[str, Any]) -> None:
        """Figures as single points at the last round, and as the metrics of the tab HParams."""
        from torch.utils.tensorboard.summary import hparams

        final = {f"summary/{name}": value for name, value in numbers(summary)}
        settings = {
            key: value if isinstance(value, bool | int | float) else written(value)
            for key, value in self._settings.items()
            if value is not None
        }
        # SummaryWriter.add_hparams would open a second file, which TensorBoard reads in turn with the first.
        for part in hparams(settings, final):
            self._writer._get_file_writer().add_summary(part)
        self.round(self._last, final)

    def table(self, name: str, frame: pd.DataFrame, text: str) -> None:
        """The Markdown; TensorBoard has no tables of its own."""
        self.text(name, text)

    def picture(self, path: Path) -> None:
        """Show the picture in the tab Images."""
        with open_picture(path) as opened:
            self._writer.add_image(
                f"figures/{path.stem}", np.asarray(opened.convert("RGB")), self._last, dataformats="HWC"
            )
        self._writer.flush()

    def end(self, failed: bool) -> None:
        """Close the file."""
        self._writer.close()
