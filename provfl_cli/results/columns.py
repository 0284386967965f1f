"""What the tables of a run folder hold, column by column: whoever reads one of them has it checked here.

Their checksums may fit and their content may not: somebody else may have written them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bounded import read_csv
from ..bounded_tables import read_run_table
from ..checks import excerpt
from .tokens import FILE as TOKENS
from .wrong import WrongContent, shown

if TYPE_CHECKING:
    import pandas as pd

LARGEST = 2**31 - 1  # of numbers of rounds, inputs, labels, clients
LARGEST_COUNT = 10**12


@dataclass(frozen=True)
class Column:
    """What a column holds.

    `kind`: `whole` numbers (from `least` up to `most`), `number`, `share`, `text`, `truth`, `bytes` or `shares`.
    `null`: whether cells may be empty; `optional`: whether the column may be missing.
    """

    kind: str
    null: bool = False
    optional: bool = False
    most: int = LARGEST
    least: int = 0


WHOLE, NUMBER, TEXT = Column("whole"), Column("number"), Column("text")
COUNT = Column("whole", most=LARGEST_COUNT)
SAID = Column("whole", least=-1)  # of responses, whose topic was said: -1 where that is none that is known
TRUTH = "retraining.csv"  # every method against what retraining changed
IDENTITY = {"method": TEXT, "scope": TEXT, "target": TEXT, "round": WHOLE}
TABLES: Mapping[str, Mapping[str, Column]] = {
    "contributions.parquet": {
        **IDENTITY, "input": WHOLE, "label": WHOLE, "prediction": SAID, "kind": TEXT,
        "client": Column("whole", null=True), "contribution": Column("number", null=True),
        "share": Column("share", null=True), "rank": Column("whole", null=True), "tie": Column("truth", null=True),
        "error": Column("number", null=True, optional=True), "without": Column("whole", null=True, optional=True),
    },
    "inputs.parquet": {
        "round": WHOLE, "input": WHOLE, "label": WHOLE, "prediction": SAID, "split": Column("text", optional=True),
        "probabilities": Column("shares", null=True, optional=True), "residual": Column("number", True, True),
        "carried_client": Column("whole", True, True), "carried": Column("bytes", True, True),
        "spans": Column("text", True, True),
        "picture": Column("bytes", optional=True), "text": Column("text", optional=True),
        "prompt": Column("text", optional=True), "response": Column("text", optional=True),
        "expected": Column("text", null=True, optional=True),
    },
    TOKENS: {
        "round": WHOLE, "scope": TEXT, "target": TEXT, "input": WHOLE, "position": WHOLE, "token": WHOLE, "text": TEXT,
        "client": WHOLE, "contribution": NUMBER,
    },
    "layers.parquet": {
        "round": WHOLE, "input": WHOLE, "layer": TEXT, "client": WHOLE, "contribution": Column("number", null=True),
        "active_neurons": COUNT, "neurons": COUNT,
    },
    "participation.csv": {
        "round": WHOLE, "client": WHOLE, "status": TEXT, "epochs": Column("whole", True, True),
        "from_round": Column("whole", True, True),
    },
    "clients.csv": {"client": WHOLE, "label": WHOLE, "examples": COUNT},
    "retrainings.csv": {
        "retraining": WHOLE, "design": TEXT, "seed": WHOLE, "clients": Column("text", null=True),
        "accuracy": Column("share"), "key": Column("text", null=True), "seconds": NUMBER,
        "removes": Column("text", True, True),
    },
    "retrained.parquet": {
        "retraining": WHOLE, "round": WHOLE, "input": WHOLE, "value": NUMBER, "prediction": WHOLE,
    },
    "suspicion.csv": {
        "round": WHOLE, "client": WHOLE, "score": TEXT, "value": NUMBER, "z": Column("number", null=True),
        "suspect": Column("truth", null=True),
    },
    "localization.csv": dict(IDENTITY),
    TRUTH: {
        **IDENTITY, "metric": TEXT, "mean": NUMBER, "low": Column("number", null=True),
        "high": Column("number", null=True), "chance": Column("number", null=True), "inputs": COUNT, "subsets": COUNT,
    },
}  # fmt: skip
METRIC = Column("number", null=True)  # every other column of localization.csv


def run_table(path: Path, only: Sequence[str] | None = None) -> pd.DataFrame:
    """A table of a run folder, whole or only some columns of it, checked.

    Raises:
        Oversized: it is larger than any run's.
        WrongContent: a column is missing or holds what no run writes; the message says which, and what.
        OSError, ValueError: it cannot be read.
    """
    if path.suffix == ".csv":
        texts = [name for name, column in TABLES[path.name].items() if column.kind == "text"]
        return checked(read_csv(path, texts=texts), path.name, only)
    return checked(read_run_table(path, only), path.name, only)


def checked(frame: pd.DataFrame, table: str, only: Sequence[str] | None = None) -> pd.DataFrame:
    """A frame that was read from the file of that name, or these columns of it; WrongContent as in `run_table`."""
    columns = TABLES[table]
    if not frame.columns.is_unique:
        raise WrongContent(f"has the column {excerpt(frame.columns[frame.columns.duplicated()][0])} twice")
    wanted = {name: column for name, column in columns.items() if only is None or name in only}
    if table == "localization.csv":
        wanted |= {str(name): METRIC for name in frame.columns if name not in wanted}
    for name, column in wanted.items():
        if name in frame.columns:
            frame[name] = _checked(frame[name], column, name)
        elif not column.optional:
            raise WrongContent(f"has no column {excerpt(name)}")
    return frame


def _checked(values: pd.Series[Any], column: Column, name: str) -> pd.Series[Any]:
    """The values; whole numbers that were read as others are made whole where none is missing."""
    there = values.dropna()
    where = f"column {excerpt(name)}"
    if len(there) < len(values) and not column.null:
        raise WrongContent(f"{where} has an empty cell, or one that is no number")
    if not len(there):
        return values
    fits, accepted = _KINDS[column.kind]
    good = fits(there)
    whole = column.kind == "whole" and good.all()
    most = (there >= column.least) & (there <= column.most) if whole else good
    if not (good & most).all():
        wrong = there[~np.asarray(good & most, dtype=bool)].iloc[0]
        least = f" from {column.least}" if column.least else ""
        limit = f"{least} up to {column.most:,}" if column.kind == "whole" else ""
        raise WrongContent(f"{where} holds {shown(wrong)}: {accepted}{limit} are read")
    return values.astype("int64") if column.kind == "whole" and values.dtype.kind == "f" and not column.null else values


def _all(values: pd.Series[Any], answer: bool) -> np.ndarray:
    return np.full(len(values), answer)


def _numbers(values: pd.Series[Any]) -> np.ndarray:
    """Which are finite numbers; none where the column's type is another."""
    if values.dtype.kind not in "iuf":
        return _all(values, False)
    finite: np.ndarray = np.isfinite(values.to_numpy(dtype=np.float64))
    return finite


def _whole(values: pd.Series[Any]) -> np.ndarray:
    finite = _numbers(values)
    return finite & (values.to_numpy() % 1 == 0) if finite.all() else finite


def _share(values: pd.Series[Any]) -> np.ndarray:
    finite = _numbers(values)
    return finite & (values.to_numpy() >= 0) & (values.to_numpy() <= 1 + 1e-6) if finite.all() else finite


def _of_type(kind: type) -> Callable[[pd.Series[Any]], np.ndarray]:
    return lambda values: np.fromiter((isinstance(value, kind) for value in values), dtype=bool, count=len(values))


def _text(values: pd.Series[Any]) -> np.ndarray:
    return _all(values, True) if values.dtype == "str" else _of_type(str)(values)


def _truth(values: pd.Series[Any]) -> np.ndarray:
    return _all(values, True) if values.dtype.kind == "b" else _of_type(bool)(values)


def _shares(values: pd.Series[Any]) -> np.ndarray:
    """Which are arrays of as many probabilities as the first."""
    rows = list(values)
    width = len(rows[0]) if isinstance(rows[0], np.ndarray) else -1
    arrays = [isinstance(row, np.ndarray) and row.dtype.kind == "f" and row.shape == (width,) for row in rows]
    if not all(arrays) or not width:
        return np.array(arrays) & (width > 0)
    table = np.stack(rows)
    return np.asarray((np.isfinite(table) & (table >= 0) & (table <= 1 + 1e-6)).all(axis=1))


_KINDS: Mapping[str, tuple[Callable[[pd.Series[Any]], np.ndarray], str]] = {
    "whole": (_whole, "whole numbers"),
    "number": (_numbers, "finite numbers"),
    "share": (_share, "numbers from 0 to 1"),
    "text": (_text, "texts"),
    "truth": (_truth, "true and false"),
    "bytes": (_of_type(bytes), "the bytes of pictures"),
    "shares": (_shares, "equally long lists of probabilities"),
}
