"""How many training examples of each label each client holds: `clients.csv` of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..bounded import Oversized
from ..imports import later
from .columns import run_table
from .wrong import WrongContent

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = later("pandas")

FILE = "clients.csv"
COLUMNS = ("client", "label", "examples")
MOST_COUNTS = 20_000_000  # clients x labels


def frame(label_counts: Mapping[int, np.ndarray]) -> pd.DataFrame:
    """One row for each client and label that it holds: `client, label, examples`; a client without any has none.

    Args:
        label_counts: training examples by label of each client, after injection, int `[classes]`.
    """
    rows = [
        (client, int(label), int(counts[label]))
        for client, counts in label_counts.items()
        for label in np.flatnonzero(counts)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def read(path: Path, classes: int) -> dict[int, np.ndarray]:
    """The way back: examples by label of each client in the file, int `[classes]`.

    Raises:
        WrongContent: a column is missing or holds something else, or a label is not below `classes`.
        ValueError: it cannot be read.
        FileNotFoundError: there is no such file.
    """
    rows = run_table(path)
    if len(rows) and rows["label"].max() >= classes:
        raise WrongContent(f"has labels beyond the {classes} that there are")
    if rows["client"].nunique() * classes > MOST_COUNTS:
        raise Oversized(f"more than the {MOST_COUNTS:,} numbers of clients x labels that are read")
    counts: dict[int, np.ndarray] = {}
    for client, label, examples in rows[list(COLUMNS)].itertuples(index=False):
        counts.setdefault(int(client), np.zeros(classes, dtype=np.int64))[label] = examples
    return counts
