"""Tables in parquet: how large one will be is worked out from its footer and its dictionaries before it is read.

A few kilobytes can stand for billions of rows, or for one long text that a million rows refer to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bounded import GIGABYTE, Oversized, check_unpacked, in_words, most_unpacked

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = 10_000
BATCH = 1 << 16  # rows looked at together


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
}
GIVEN = Room(1_000_000, 2 * GIGABYTE)  # of `provfl trace --inputs`


def read_run_table(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """One of the tables of a run folder, whole or these columns of it.

    Raises:
        Oversized: it is larger than any run's.
        OSError, ValueError: it cannot be read (pyarrow's errors derive from these).
    """
    import pandas as pd

    check_run_table(path)
    return pd.read_parquet(path, columns=None if columns is None else list(columns))


def check_run_table(path: Path) -> None:
    """Raise Oversized where a table of a run folder is larger than any run's; OSError, ValueError as above."""
    room = RUN_TABLES[path.name]
    rows, size = measured(path, room.size)
    if rows > room.rows:
        raise Oversized(f"{rows:,} rows, at most {room.rows:,} are read")
    if size > room.size:
        raise Oversized(f"it takes more than the {in_words(room.size)} of memory that a run's table may take")


def check_dataset(path: Path, room: Room | None = None) -> None:
    """Raise Oversized where a table of a data set would become far larger than its file; `room`: than this, too."""
    packed = path.stat().st_size
    most = most_unpacked(packed) if room is None else room.size
    rows, size = measured(path, most)
    if room is not None and rows > room.rows:
        raise Oversized(f"{rows:,} rows, at most {room.rows:,} are read at a time: split it into files")
    if room is not None and size > room.size:
        raise Oversized(f"it takes more than {in_words(room.size)} of memory: split it into files")
    check_unpacked(size, packed)


def measured(path: Path, enough: int | None = None) -> tuple[int, int]:
    """Rows of a parquet file, and the bytes that it takes in memory; where `enough` is passed, counting ends.

    Raises:
        Oversized: it has too many columns.
        OSError, ValueError: it cannot be read.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        footer = file.metadata
        if footer.num_columns > COLUMNS:
            raise Oversized(f"{footer.num_columns:,} columns, at most {COLUMNS:,} are read")
        rows, size = footer.num_rows, 0
        kept, unpacked = dict[str, int](), dict[str, int]()  # texts by column: what their largest chunk holds
        for chunk, column in _chunks(footer):
            kind = footer.schema.column(column)
            size += max(chunk.total_uncompressed_size, chunk.num_values * _width(kind))
            if kind.physical_type == "BYTE_ARRAY" and _shares(chunk.encodings):
                # As a dictionary pyarrow reads neither what is nested nor another encoding.
                nested, delta = kind.path != kind.name, "DELTA_BYTE_ARRAY" in chunk.encodings
                texts = unpacked if nested or delta else kept
                texts[kind.path] = max(texts.get(kind.path, 1), chunk.total_uncompressed_size)
    for columns, dictionaries in ((set(kept) - set(unpacked), True), (set(unpacked), False)):
        if not columns or (enough is not None and size > enough):
            continue
        # Of what is unpacked a row may hold all of its chunk: so many at a time as are sure to fit.
        batch = BATCH if dictionaries else max(min(BATCH, GIGABYTE // max(unpacked.values())), 1)
        names = sorted(columns)
        with pq.ParquetFile(path, read_dictionary=names if dictionaries else None) as file:
            for part in file.iter_batches(batch_size=batch, columns=names, use_threads=False):
                size += sum(map(_size, part.columns))
                if enough is not None and size > enough:
                    break
    return rows, size


def _chunks(footer: Any) -> Iterator[tuple[Any, int]]:
    for group in range(footer.num_row_groups):
        for column in range(footer.num_columns):
            yield footer.row_group(group).column(column), column


def _shares(encodings: Sequence[str]) -> bool:
    """Whether a value may be stored once for many rows."""
    return any("DICTIONARY" in name or name == "DELTA_BYTE_ARRAY" for name in encodings)


def _width(kind: Any) -> int:
    """Bytes that a value takes at least."""
    widths = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12, "BYTE_ARRAY": 8}
    return int(widths.get(kind.physical_type, kind.length))


def _size(array: Any) -> int:
    """Bytes of an array once each of its rows has its own copy of a shared value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        lengths = pc.binary_length(array.dictionary).cast(pa.int64()).take(array.indices)
        return pc.sum(lengths).as_py() or 0
    if pa.types.is_struct(array.type):
        return sum(map(_size, array.flatten()))
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_map(array.type):
        return _size(array.flatten() if not pa.types.is_map(array.type) else array.items)
    return int(array.nbytes)
