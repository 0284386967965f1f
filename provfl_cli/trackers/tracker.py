"""What trackers share: how a missing package is answered, and what a run is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any

from ..errors import InputError

OWN_FOLDERS = ("outputs", "multirun")  # what Hydra puts above DATE/TIME


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
