"""Files that are there whole or not at all: each is written beside its place, flushed to disk, and renamed into it.

The same content gives the same bytes: nothing here writes a time or a host.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..harmless import harmless, harmless_json, spreadsheet_cell
from ..imports import later
from ..store.disk import replacing

if TYPE_CHECKING:
    import pandas as pd

    from .. import parquet
else:
    pd = later("pandas")
    parquet = later("provfl_cli.parquet")


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, with line ends as they are."""
    with replacing(path) as beside:
        beside.write_bytes(text.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `json_text`."""
    write_text(path, json_text(content))


def json_text(content: Mapping[str, Any]) -> str:
    """Indented JSON in the order of `content`; numbers that are not finite become null, control characters escapes."""
    return harmless_json(json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def json_line(content: Mapping[str, Any]) -> str:
    """The same in one line, its keys sorted: the same content gives the same text."""
    return harmless_json(json.dumps(plain(content), ensure_ascii=False, allow_nan=False, sort_keys=True))


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line (`metrics.jsonl`: all rounds so far, each time a round ends)."""
    lines = [harmless_json(json.dumps(plain(row), ensure_ascii=False, allow_nan=False)) + "\n" for row in rows]
    write_text(path, "".join(lines))


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write `csv_text`."""
    write_text(path, csv_text(frame))


def csv_text(frame: pd.DataFrame) -> str:
    """A frame without its index; numbers so that they read back equal, missing values empty.

    Texts and headings are made harmless, to a spreadsheet too (`spreadsheet_cell`).
    """
    text: str = for_people(frame, spreadsheet_cell).to_csv(index=False, lineterminator="\n")
    return text


def for_people(frame: pd.DataFrame, shown: Callable[[str], str] = harmless) -> pd.DataFrame:
    """A frame with `shown` of every text and every heading; what is no text stays as it is."""
    made = frame.copy(deep=False)
    for position, kind in enumerate(frame.dtypes):
        if kind.kind not in "biufcmM":
            column = frame.iloc[:, position]
            # By distinct values: a table of contributions has millions of rows and few names.
            # What is no text may not be comparable.
            values = (
                column.unique()
                if isinstance(kind, pd.StringDtype)
                else [content for content in column if type(content) is str]
            )
            texts = {value: shown(value) for value in values if isinstance(value, str)}
            if any(value != text for value, text in texts.items()):
                kept = [texts[value] if isinstance(value, str) else value for value in column]
                of = "str" if isinstance(kind, pd.CategoricalDtype) else kind
                made.isetitem(position, pd.Series(kept, index=frame.index, dtype=of).array)
    made.columns = [shown(name) if isinstance(name, str) else name for name in frame.columns]
    return made


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame without its index; NaN becomes null."""
    with replacing(path) as beside:
        parquet.write(beside, frame)


def plain(value: Any) -> Any:
    """`value` in JSON's own types: numpy scalars and arrays, paths, tuples and non-finite numbers translated."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value
