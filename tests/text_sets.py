"""Small sets of texts in files of every format, and the configurations that read them."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq

from provfl_cli.config import schema
from provfl_cli.data.injection import NoInjection
from provfl_cli.data.partition import Iid

WORDS = ["ash", "birch", "cedar", "dogwood", "elm", "fir"]
ROWS = [(f"{WORDS[i % 6]} {WORDS[(i * 5 + 1) % 6]} {i}", i % 2) for i in range(60)]


def text_set(path: Path, **other) -> schema.Dataset:
    """Texts in a folder or a file."""
    usual = {"input": "text", "input_column": "text", "max_tokens": 16, "vocabulary": 320, "public_examples": 10}
    return schema.Dataset("custom", "path", path=str(path), **{**usual, **other})


def model(**other) -> schema.Model:
    return schema.Model("some.function", "gpt_mini", **{"input": "text", **other})


def config(dataset: schema.Dataset, text_model: schema.Model | None = None, seed: int = 0) -> SimpleNamespace:
    """The parts of a configuration that data depend on."""
    return SimpleNamespace(
        dataset=dataset,
        partition=Iid(min_examples_per_label=1, min_examples_per_client=1),
        injection=NoInjection(),
        federation=SimpleNamespace(clients=3, clients_per_round=None),
        model=text_model or model(),
        seed=seed,
        store=SimpleNamespace(cache=os.devnull),  # no folder: nothing is kept
    )


def write(file: Path, rows: list[tuple[str, object]] = ROWS) -> Path:
    """A file of rows with the columns text and label, in the format that its name says."""
    columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    records = [{"text": text, "label": label} for text, label in rows]
    if file.suffix == ".parquet":
        pq.write_table(pa.table(columns), file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(records))
    elif file.suffix == ".jsonl":
        file.write_text("\n".join(map(json.dumps, records)))
    else:
        separator = "," if file.suffix == ".csv" else "\t"
        quoted = [('"' + text.replace('"', '""') + '"', str(label)) for text, label in rows]
        file.write_text("\n".join(map(separator.join, [("text", "label"), *quoted])), encoding="utf-8")
    return file
