"""What a run has written of itself, read again by who asks about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..bounded import Oversized
from ..errors import RunError
from ..results import label_counts as counted
from ..results.columns import run_table
from ..results.wrong import WrongContent


def label_counts_of(folder: Path, classes: int) -> dict[int, np.ndarray]:
    """What the run wrote of them; {} for runs of a time when it did not."""
    try:
        return counted.read(folder / counted.FILE, classes)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RunError(f"{folder / counted.FILE} cannot be read: {error}") from error


def rounds_traced(folder: Path) -> tuple[int, ...]:
    """Numbers of the rounds that it traced, ascending; RunError where the table is damaged."""
    try:
        traced = run_table(folder / "inputs.parquet", ["round"])
    except Oversized as error:
        raise RunError(f"{folder / 'inputs.parquet'} is not opened: {error}") from error
    except WrongContent as error:
        raise RunError(f"{folder / 'inputs.parquet'} {error}") from error
    except (OSError, ValueError):
        return ()
    return tuple(sorted(map(int, traced["round"].unique())))
