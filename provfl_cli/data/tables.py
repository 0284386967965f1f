"""One file of rows and columns, in any of the usual formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.schema import Dataset
from ..errors import InputError
from .splits import input_columns

if TYPE_CHECKING:
    import pyarrow as pa

# In the order in which a folder is searched: a hub snapshot's parquet files come with bookkeeping in JSON.
FORMATS = {".parquet": "parquet", ".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSON lines", ".json": "JSON"}


def read_table(file: Path, dataset: Dataset) -> pa.Table:
    """Read a file of one of `FORMATS`; `.json` is a list of records, or JSON lines as `.jsonl`.

    CSV and TSV have their column names in the first line, and are UTF-8. Columns of texts stay as they are written:
    "NA" and "007" are texts.

    Raises:
        InputError: a file that cannot be read.
    """
    suffix = file.suffix.lower()
    try:
        if suffix == ".parquet":
            import pyarrow.parquet as pq

            return pq.read_table(file, partitioning=None)
        if suffix in (".csv", ".tsv"):
            return _separated(file, "," if suffix == ".csv" else "\t", dataset)
        return _json(file, listed=suffix == ".json")
    except (OSError, ValueError, TypeError, KeyError) as error:  # pyarrow's errors derive from these
        reason = str(error).partition("\n")[0]
        advice = "fetch it again" if suffix == ".parquet" else "repair it (UTF-8, one record a line)"
        raise InputError(f"{file}: broken {FORMATS[suffix]} file: {reason}: {advice}") from None


def _separated(file: Path, separator: str, dataset: Dataset) -> pa.Table:
    """A file whose first line names its columns."""
    import pyarrow as pa
    from pyarrow import csv

    texts = dict.fromkeys(input_columns(dataset), pa.string()) if dataset.input == "text" else {}
    return csv.read_csv(
        file,
        parse_options=csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        convert_options=csv.ConvertOptions(column_types=texts),
    )


def _json(file: Path, listed: bool) -> pa.Table:
    """JSON lines, or a list of records where the file may be one and starts like one."""
    import pyarrow as pa
    from pyarrow.json import read_json

    if listed:
        with file.open(encoding="utf-8-sig") as stream:
            if stream.read(4096).lstrip().startswith("["):
                stream.seek(0)
                records = json.load(stream)
                if not all(isinstance(record, dict) for record in records):
                    raise ValueError("a list of something else than records")
                names = dict.fromkeys(name for record in records for name in record)
                return pa.table({name: [record.get(name) for record in records] for name in names})
    return read_json(file)
