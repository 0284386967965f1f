"""Files that somebody else may have made, looked at before they are read: none takes more memory than it may.

The limits lie far above what runs write, and are said where one is passed. Tables in parquet: `bounded_tables`.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .imports import later

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = later("pandas")

MEGABYTE = 1_000_000
GIGABYTE = 1_000_000_000
JSON_BYTES = 16 * MEGABYTE  # a manifest of 10,000 clients takes 1
LINES_BYTES = 64 * MEGABYTE  # metrics.jsonl of 100,000 rounds takes 20
CSV_BYTES = 64 * MEGABYTE  # participation.csv of 1,000 clients and 1,000 rounds takes 30
CSV_COLUMNS = 10_000
TOKENIZER_BYTES = 128 * MEGABYTE  # the largest published ones take 35
LOG_BYTES = 100_000  # of the end of a log
HEADER_BYTES = 16 * MEGABYTE  # of a safetensors file: 100,000 tensors
UNPACKED_BYTES = 4 * GIGABYTE  # what any data set may take once it is unpacked
UNPACKED_TIMES = 50  # and a large one by how much it may grow: real pictures and texts grow by 10 at most


class Oversized(ValueError):
    """A file is larger than anything that was made to be read; the message says how large, and the limit."""


def read_text(path: Path, most: int = JSON_BYTES) -> str:
    """The text of a file in UTF-8.

    Raises:
        Oversized: it has more than `most` bytes.
        OSError: it is missing, or no plain file: a pipe or device might never end.
        ValueError: it is not UTF-8.
    """
    return _bytes(path, most).decode("utf-8")


def read_json(path: Path, most: int = JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        OSError, ValueError: as `read_text`; it is no JSON object.
    """
    return _object(read_text(path, most))


def read_json_lines(path: Path, most: int = LINES_BYTES) -> list[dict[str, Any]]:
    """The JSON objects in a file, one a line; empty lines are passed over.

    Raises:
        OSError, ValueError: as `read_json`.
    """
    return [_object(line) for line in read_text(path, most).split("\n") if line.strip()]


def read_csv(path: Path, most: int = CSV_BYTES, texts: Sequence[str] = ()) -> pd.DataFrame:
    """A table whose first line names its columns; those named in `texts` hold texts, whatever they look like.

    Raises:
        Oversized: it has more than `most` bytes, or more columns than any table of ours.
        OSError, ValueError: it cannot be read.
    """
    content = _bytes(path, most)
    check_columns(content[: content.find(b"\n") + 1 or None], b",")
    return pd.read_csv(io.BytesIO(content), dtype=dict.fromkeys(texts, str), low_memory=False)


def check_columns(line: bytes, separator: bytes, most: int = CSV_COLUMNS) -> None:
    """Raise Oversized where a table's first line names too many columns: each takes memory of its own."""
    if (columns := line.count(separator) + 1) > most:
        raise Oversized(f"{columns:,} columns, at most {most:,} are read")


def read_end(path: Path, most: int = LOG_BYTES) -> str:
    """The last `most` bytes of a text, what is not UTF-8 replaced; OSError where it cannot be read."""
    _check_plain(path)
    with path.open("rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - most, 0))
        return file.read(most).decode("utf-8", errors="replace")


def check_safetensors(path: Path) -> None:
    """Look at the length of a safetensors file's header, before the library reads it.

    Raises:
        Oversized: it is longer than the file, or than that of any model.
        OSError: the file cannot be read.
        ValueError: it is too short to be one.
    """
    _check_plain(path)
    with path.open("rb") as file:
        start, size = file.read(8), os.fstat(file.fileno()).st_size
    if len(start) < 8:
        raise ValueError("it is too short")
    (length,) = struct.unpack("<Q", start)
    if length > size - 8:
        raise Oversized(f"its header would be longer than the file: {length:,} bytes of {size:,}")
    if length > HEADER_BYTES:
        raise Oversized(f"its header has {length:,} bytes, at most {HEADER_BYTES:,} are read")


def check_unpacked(unpacked: int, packed: int) -> None:
    """Raise Oversized where `packed` bytes of a file would become far more than data do: `unpacked`."""
    if unpacked > (most := most_unpacked(packed)):
        raise Oversized(f"{in_words(packed)} would become more than the {in_words(most)} that are read of it")


def most_unpacked(packed: int) -> int:
    """How many bytes may become of a data set's file of `packed` bytes."""
    return max(UNPACKED_BYTES, UNPACKED_TIMES * packed)


def check_zip(path: Path) -> None:
    """Look at the sizes of what a zip archive (`.npz`) holds, before any of it is unpacked.

    Raises:
        Oversized: see `check_unpacked`.
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    with zipfile.ZipFile(path) as archive:
        check_unpacked(sum(entry.file_size for entry in archive.infolist()), path.stat().st_size)


def in_words(size: int) -> str:
    """A number of bytes for people."""
    if size < MEGABYTE:
        return f"{size / 1000:,.1f} KB"
    return f"{size / MEGABYTE:,.1f} MB" if size < GIGABYTE else f"{size / GIGABYTE:,.1f} GB"


def _bytes(path: Path, most: int) -> bytes:
    _check_plain(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise Oversized(f"{in_words(path.stat().st_size)}, at most {in_words(most)} are read")
    return content


def _check_plain(path: Path) -> None:
    if not path.is_file():
        path.stat()  # FileNotFoundError where it is missing
        raise OSError(f"{path} is no plain file")


def _object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except RecursionError:
        raise Oversized("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content
