"""Tables of what retraining says of each method: the rows of `retraining.csv`, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .table import ABSENT, Table

if TYPE_CHECKING:
    import pandas as pd

INTERVAL = "95%"
RANDOM = "random clients"
NAMES = {
    "another_seed": "(another training seed)",
    "datamodel": "(a datamodel of other subsets)",
    "largest_clients": "(largest clients)",
}
BARE = ("retrained",)  # the scope of rows that belong to no trace

Row = Mapping[str, Any]
Key = tuple[str, str]  # method, scope


def truth_tables(frame: pd.DataFrame) -> list[Table]:
    """From the rows of `retraining.csv` for one round: subsets, leaving out, removal, and what a fault has caused."""
    rows: dict[Key, dict[str, Row]] = {}
    for row in frame.to_dict("records"):
        rows.setdefault((str(row["method"]), str(row["scope"])), {})[str(row["metric"])] = {
            str(name): value for name, value in row.items()
        }
    scopes = len({scope for _, scope in rows if scope not in BARE}) > 1
    made = [
        _table("Retrained with some clients: do contributions add up to the prediction? (LDS; chance 0)", rows, scopes,
               (("lds", "LDS"),), counted=True),
        _table("Retrained without each client: does the ranking follow what changes? (Spearman: chance 0)", rows,
               scopes, (("spearman_retrain", "Spearman"), ("top1_retrain", "top-1")), chance="top1_retrain"),
        _removal(rows, scopes),
        _table("Caused by what was planted (right in the clean twin): is the planted client on top?", rows, scopes,
               (("caused_accuracy", "accuracy"), ("caused_corrected", "corrected"), ("caused_auroc", "AUROC")),
               chance="caused_accuracy", counted=True),
    ]  # fmt: skip
    return [table for table in made if table.rows]


def _table(
    title: str,
    rows: Mapping[Key, Mapping[str, Row]],
    scopes: bool,
    metrics: Sequence[tuple[str, str]],
    chance: str = "",
    counted: bool = False,
) -> Table:
    """A row for each method that has one of the metrics, each with its interval; inputs and subsets where counted."""
    there = {key: own for key, own in rows.items() if any(name in own for name, _ in metrics)}
    bounded = {name for name, _ in metrics if any(_has_bounds(own.get(name)) for own in there.values())}
    subsets = counted and any(own[name]["subsets"] > 1 for own in there.values() for name, _ in metrics if name in own)
    headings = [*_words(scopes), *(["inputs"] if counted else []), *(["subsets"] if subsets else [])]
    for name, heading in metrics:
        headings += [heading, *([INTERVAL] if name in bounded else []), *(["chance"] if name == chance else [])]
    cells = []
    for key, own in there.items():
        first = next(own[name] for name, _ in metrics if name in own)
        line = [*_named(key, scopes), *([f"{first['inputs']:,.0f}"] if counted else [])]
        line += [f"{first['subsets']:,.0f}"] if subsets else []
        for name, _ in metrics:
            row = own.get(name)
            line += [_number(row, "mean"), *([_bounds(row)] if name in bounded else [])]
            line += [_number(row, "chance")] if name == chance else []
        cells.append(tuple(line))
    return Table(title, tuple(headings), tuple(cells), 2 if scopes else 1)


def _removal(rows: Mapping[Key, Mapping[str, Row]], scopes: bool) -> Table:
    """What becomes of predictions without the top clients of each method, beside random and the largest ones."""
    names = dict.fromkeys(name for own in rows.values() for name in own if name.startswith("removal_"))
    counts = sorted({int(name.rpartition("_")[2]) for name in names})
    columns = [(f"removal_{of}_{count}", of, count) for of in ("margin", "flips") for count in counts]
    there = {key: own for key, own in rows.items() if any(name in own for name, *_ in columns)}
    cells = [
        (*_named(key, scopes), *(_number(own.get(name), "mean") for name, *_ in columns)) for key, own in there.items()
    ]
    chances: dict[str, Row] = {}
    for own in there.values():
        for name in names:
            if name in own and not math.isnan(own[name]["chance"]):
                chances.setdefault(name, own[name])
    if chances:
        at_random = (_number(chances.get(name), "chance") for name, *_ in columns)
        cells.append((*([f"({RANDOM})", ABSENT] if scopes else [f"({RANDOM})"]), *at_random))
    headings = [*_words(scopes), *(f"{of}, top {count}" for _, of, count in columns)]
    return Table(
        "Retrained without the top clients: how much margin is lost, how many predictions flip?",
        tuple(headings),
        tuple(cells),
        2 if scopes else 1,
    )


def _words(scopes: bool) -> tuple[str, ...]:
    return ("method", "scope") if scopes else ("method",)


def _named(key: Key, scopes: bool) -> tuple[str, ...]:
    method, scope = key
    name = NAMES.get(method, method) if scope in BARE else method
    return (name, ABSENT if scope in BARE else scope) if scopes else (name,)


def _has_bounds(row: Row | None) -> bool:
    return row is not None and not math.isnan(row["low"])


def _bounds(row: Row | None) -> str:
    return f"{row['low']:.2f} to {row['high']:.2f}" if row is not None and _has_bounds(row) else ABSENT


def _number(row: Row | None, column: str) -> str:
    return ABSENT if row is None or math.isnan(row[column]) else f"{row[column]:.3f}"
