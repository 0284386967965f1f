"""One file of rows and columns, in any of the usual formats."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..bounded import Oversized
from ..bounded_tables import check_dataset
from ..config.schema import Dataset
from ..errors import InputError
from . import separated

# In the order in which a folder is searched: a hub snapshot's parquet files come with bookkeeping in JSON.
FORMATS = {".parquet": "parquet", ".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSON lines", ".json": "JSON"}
SURROGATE = re.compile(r"\\ud", re.IGNORECASE)  # as JSON writes one


@dataclass(frozen=True)
class Table:
    """A table in memory.

    Attributes:
        names: of all its columns.
        columns: the values of those that were asked for and are there once.
        rows: how many it has.
        class_names: of the label column, where the file brings them (Hugging Face's ClassLabel).
        written: whether all values are texts because the format has no types (CSV, TSV).
        notes: sentences for the user on how it was read.
    """

    names: tuple[str, ...]
    columns: Mapping[str, Sequence[Any]]
    rows: int
    class_names: tuple[str, ...] | None = None
    written: bool = False
    notes: tuple[str, ...] = field(default=())


def input_columns(dataset: Dataset) -> list[str]:
    """The columns that `dataset.input_column` names: one, or several to be joined; and that of a response."""
    columns = dataset.input_column if isinstance(dataset.input_column, list) else [dataset.input_column]
    return [*columns, *([] if dataset.response_column is None else [dataset.response_column])]


def read_table(file: Path, dataset: Dataset) -> Table:
    """Read a file of one of `FORMATS`; `.json` is a list of records, or JSON lines as `.jsonl`.

    CSV and TSV have their column names in the first line, and are UTF-8; every value of theirs stays the text that is
    written there: "NA" and "007". TSV are read without quoting unless they show that they are quoted, see `separated`.

    Raises:
        InputError: a file that cannot be read.
    """
    suffix, columns = file.suffix.lower(), [*input_columns(dataset), dataset.label_column]
    try:
        if suffix == ".parquet":
            check_dataset(file)
            return of_arrow(pq.read_table(file, partitioning=None), dataset)
        if suffix in (".csv", ".tsv"):
            names, values, rows, notes = separated.read(file, columns)
            return Table(tuple(names), values, rows, written=True, notes=notes)
        return _of_records(_records(file, listed=suffix == ".json"), columns)
    except Oversized as error:
        raise InputError(f"{file}: {error}: split it into files") from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:  # pyarrow's errors derive from these
        reason = str(error).partition("\n")[0]
        advice = "fetch it again" if suffix == ".parquet" else "repair it (UTF-8, one record a line)"
        raise InputError(f"{file}: broken {FORMATS[suffix]} file: {reason}: {advice}") from None


def column_names(file: Path, dataset: Dataset) -> Sequence[str]:
    """The columns of a file, none where it cannot be read; of CSV, TSV and JSON lines the first line tells."""
    try:
        if file.suffix.lower() in (".csv", ".tsv"):
            return separated.header(file)
        if file.suffix.lower() == ".jsonl":
            with file.open(encoding="utf-8-sig") as stream:
                record = json.loads(next((line for line in stream if not line.isspace()), "{}"))
            return tuple(record) if isinstance(record, dict) else ()
        if file.suffix.lower() == ".parquet":
            check_dataset(file)
            return tuple(pq.read_schema(file).names)
        return read_table(file, dataset).names
    except (InputError, Oversized, OSError, ValueError, RecursionError):
        return ()


def of_arrow(table: pa.Table, dataset: Dataset) -> Table:
    """The columns that the dataset asks for of Arrow's table; class names come from Hugging Face's metadata."""
    names = tuple(table.column_names)
    columns = {
        name: table.column(name).to_pylist()
        for name in {*input_columns(dataset), dataset.label_column}
        if names.count(name) == 1
    }
    features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    class_names = (features.get(dataset.label_column) or {}).get("names")
    return Table(names, columns, len(table), tuple(map(str, class_names)) if class_names else None)


def _of_records(records: list[dict[str, Any]], columns: Sequence[str]) -> Table:
    names = dict.fromkeys(name for record in records for name in record)
    values = {column: [record.get(column) for record in records] for column in columns if column in names}
    return Table(tuple(names), values, len(records))


def _records(file: Path, listed: bool) -> list[dict[str, Any]]:
    """Records of JSON lines, or of a list where the file may be one and starts like one."""
    records: list[dict[str, Any]] = []
    with file.open(encoding="utf-8-sig") as stream:
        start = stream.read(4096).lstrip()
        stream.seek(0)
        if listed and start.startswith("["):
            records = _loaded(stream.read())
            if not all(isinstance(record, dict) for record in records):
                raise ValueError("a list of something else than records")
            return records
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                record = _loaded(line)
            except json.JSONDecodeError as error:
                if listed and number == 1:
                    raise ValueError("neither a list of records nor one record a line") from None
                raise ValueError(f"line {number}: {error.msg}") from None
            if not isinstance(record, dict):
                raise ValueError(f"line {number} holds something else than a record")
            records.append(record)
    if listed and len(records) == 1 and any(isinstance(value, dict | list) for value in records[0].values()):
        raise ValueError(f"one record of {', '.join(records[0])}, in which lists are nested; a list of records is read")
    if not records:
        raise ValueError("it is empty")
    return records


def _loaded(text: str) -> Any:
    """What JSON says; ValueError where a text in it is half a character (of a surrogate pair)."""
    value = json.loads(text)
    if SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()
    return value
