"""What a tracker is asked for, and how a missing package is answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InputError

if TYPE_CHECKING:
    import pandas as pd

OWN_FOLDERS = ("outputs", "multirun")  # what Hydra puts above DATE/TIME


class Log(Protocol):
    """An opened log of one run."""

    @property
    def where(self) -> str:
        """Where it is, in a few words."""

    @property
    def look(self) -> str:
        """What to type or to open to see it; "" where nothing can be seen."""

    def round(self, number: int, values: Mapping[str, float]) -> None:
        """Finite numbers of round `number`, by names such as `rounds/accuracy`; visible at once."""

    def figures(self, summary: Mapping[str, Any]) -> None:
        """The final figures (`summary.json`): numbers, words, None where there was nothing to measure."""

    def table(self, name: str, frame: pd.DataFrame, text: str) -> None:
        """A table, and the same in Markdown."""

    def picture(self, path: Path) -> None:
        """A PNG file, named by its stem; gone after this call."""

    def end(self, failed: bool) -> None:
        """Nothing follows; `failed`: the run did not come to its end."""


class Tracker(Protocol):
    """The settings of a tracker: a frozen dataclass, named by `_target_` in `conf/tracker/NAME.yaml`."""

    def check(self) -> None:
        """Raise InputError where its package is missing; imports nothing heavy."""

    def start(self, settings: Mapping[str, Any], folder: Path) -> Log:
        """Open the log of the run in `folder`, with the settings by dotted key and the composed files beside them."""


def require(package: str) -> None:
    """Raise InputError where `package`, also the name of the tracker and its extra, is not installed; imports nothing.

    A folder of that name in the working folder, as wandb leaves, is no package.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError(
            f"tracker={package} needs the package {package}: pip install 'provfl[{package}]' "
            f"(scripts/provfl: PROVFL_EXTRAS={package}), or tracker=none"
        )


def composed_files(folder: Path) -> list[Path]:
    """The configuration of a run as Hydra has written it; none of a run that Hydra did not start."""
    return [path for name in ("config", "overrides") if (path := folder / ".hydra" / f"{name}.yaml").is_file()]


def name_of(folder: Path) -> str:
    """The name of a run: its folder below `outputs` or `outputs/multirun` (DATE/TIME), elsewhere the folder's own."""
    parts = folder.absolute().parts
    above = max((at for at, part in enumerate(parts[:-1]) if part in OWN_FOLDERS), default=len(parts) - 2)
    return "/".join(parts[above + 1 :])


def numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Those of the values that are finite numbers."""
    for name, value in values.items():
        if isinstance(value, Real) and not isinstance(value, bool) and isfinite(value):
            yield name, float(value)
