"""Tables in parquet: none is read that would be larger than runs and data sets are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .bounded import GIGABYTE, Oversized, check_unpacked, in_words, most_unpacked
from .imports import later

if TYPE_CHECKING:
    import pandas as pd

    from . import parquet
else:
    pd = later("pandas")
    parquet = later("provfl_cli.parquet")


@dataclass(frozen=True)
class Room:
    """How large a table may be: rows, and bytes in memory."""

    rows: int
    size: int


# Of a run's own tables. 1,000 clients x 2,000 inputs x 10 methods: 20 million rows of 110 bytes.
RUN_TABLES = {
    "contributions.parquet": Room(40_000_000, 5 * GIGABYTE),
    "layers.parquet": Room(40_000_000, 5 * GIGABYTE),
    "inputs.parquet": Room(1_000_000, 2 * GIGABYTE),
    "retrained.parquet": Room(40_000_000, 5 * GIGABYTE),
    "tokens.parquet": Room(40_000_000, 5 * GIGABYTE),
}
GIVEN = Room(1_000_000, 2 * GIGABYTE)  # of `provfl trace --inputs`


def read_run_table(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """One of the tables of a run folder, whole or these columns of it.

    Raises:
        Oversized: it is larger than any run's.
        OSError, ValueError: it cannot be read (pyarrow's errors derive from these).
    """
    check_run_table(path)
    return pd.read_parquet(path, columns=None if columns is None else list(columns))


def check_run_table(path: Path) -> None:
    """Raise Oversized where a table of a run folder is larger than any run's; OSError, ValueError as above."""
    room = RUN_TABLES[path.name]
    rows, size = parquet.measured(path, room.size)
    if rows > room.rows:
        raise Oversized(f"{rows:,} rows, at most {room.rows:,} are read")
    if size > room.size:
        raise Oversized(f"it takes more than the {in_words(room.size)} of memory that a run's table may take")


def check_dataset(path: Path, room: Room | None = None) -> None:
    """Raise Oversized where a table of a data set would become far larger than its file; `room`: than this, too."""
    packed = path.stat().st_size
    most = most_unpacked(packed) if room is None else room.size
    rows, size = parquet.measured(path, most)
    if room is not None and rows > room.rows:
        raise Oversized(f"{rows:,} rows, at most {room.rows:,} are read at a time: split it into files")
    if room is not None and size > room.size:
        raise Oversized(f"it takes more than {in_words(room.size)} of memory: split it into files")
    check_unpacked(size, packed)
