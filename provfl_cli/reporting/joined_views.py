"""A joined table as text: for a console of any width, for a paper, and as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from ..comparison.chances import CHANCE
from ..comparison.headings import HEADINGS
from ..comparison.join import LARGEST, JoinedRuns, grouped, plain, records
from ..comparison.settings import MISSING, short
from ..evaluation.ranges import counted_things
from ..harmless import harmless
from ..imports import later
from .table import Table

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = later("pandas")

SETTINGS_ROOM = 0.6  # of a console's width
GAP = 3  # between columns: padding, and the box


def wide(joined: JoinedRuns) -> Table:
    """One row for each group and method, for people: text, means with their intervals, chance beside the metric."""
    several = any(runs != seeds for runs, seeds in joined.sizes.values())
    counts = ["seeds", joined.counted] if several else [joined.counted if joined.counted == "pairs" else "seeds"]
    metrics = [HEADINGS.get(name, name.replace("_", " ")) for name in joined.metrics]
    names = [word.removeprefix("=") for word in joined.words]
    own = [word for word in joined.words if not word.startswith("=")]
    names[: len(joined.keys)] = short(joined.keys, [*own, *metrics, *counts, "chance"])
    shown = _with_chance(joined)
    headings = [*names, *counts]
    for name, heading in zip(joined.metrics, metrics, strict=True):
        headings += [heading, "chance"] if name in shown else [heading]
    rows = []
    for key, group in grouped(joined.frame, joined.words):
        runs, seeds = joined.sizes[key]
        cells = [*key, *(map(str, (seeds, runs)) if several else [str(runs)])]
        for row in records(group):
            cells.append(cell(row, seeds, signed=joined.counted == "pairs"))
            if row["metric"] in shown:
                cells.append(figure_of(row["metric"], row["chance"]))
        rows.append(tuple(cells))
    return Table(joined.title, tuple(headings), tuple(rows), len(names))


def _with_chance(joined: JoinedRuns) -> set[str]:
    return set(joined.frame.loc[joined.frame["chance"].notna(), "metric"])


def cell(row: Mapping[str, Any], seeds: int, signed: bool) -> str:
    """A mean with its interval, and of how many of the `seeds` where it is not all."""
    text = figure_of(row["metric"], row["mean"], signed)
    if not math.isnan(row["low"]):
        bounds = (figure_of(row["metric"], row[bound], signed) for bound in ("low", "high"))
        text += f" [{', '.join(bounds)}]"
    return f"{text} ({row['count']})" if 0 < row["count"] < seeds else text


def figure_of(metric: str, number: float, signed: bool = False) -> str:
    """A number as a table shows it."""
    if math.isnan(number):
        return MISSING
    sign = "+" if signed else ""
    if math.isinf(number):
        return f"{number:{sign}}"
    if metric == LARGEST:
        return f"{number:{sign}.1e}"
    if metric in ("epsilon", "delta"):
        return f"{number:{sign}.4g}"
    if counted_things(metric) or (abs(number) >= 2 and float(number).is_integer()):
        return f"{number:{sign},.0f}"
    return f"{number:{sign},.3f}" if abs(number) < 100 else f"{number:{sign},.1f}"


def wide_csv(joined: JoinedRuns) -> pd.DataFrame:
    """The same rows as numbers, with the bounds of the interval where there is one anywhere."""
    shown, several = _with_chance(joined), joined.frame["low"].notna()
    bounded = set(joined.frame.loc[several, "metric"])
    rows = []
    for key, group in grouped(joined.frame, joined.words):
        runs, seeds = joined.sizes[key]
        row: dict[str, Any] = dict(zip(plain(joined.words), key, strict=True)) | {"seeds": seeds, joined.counted: runs}
        for record in records(group):
            name = record["metric"]
            row[name] = record["mean"]
            if name in bounded:
                row |= {f"{name}_low": record["low"], f"{name}_high": record["high"]}
            if name in shown:
                chance = CHANCE.get(name)
                row[chance if isinstance(chance, str) else f"{name}_chance"] = record["chance"]
        rows.append(row)
    return pd.DataFrame(rows)


def tidy_csv(joined: JoinedRuns) -> pd.DataFrame:
    """One row for each group, method and metric."""
    frame = joined.frame.rename(columns={"count": "seeds"})
    return frame.rename(columns=dict(zip(joined.words, plain(joined.words), strict=True)))


def below(joined: JoinedRuns) -> list[str]:
    """What stands below the table: notes, then the runs that are not in it."""
    lines = list(joined.notes)
    if joined.absent:
        lines.append(f"not in the table: {len(joined.absent)} run{'s' * (len(joined.absent) > 1)}")
        lines += [f"  {run.name}: {run.reason}" for run in joined.absent]
    return lines


@dataclass(frozen=True)
class JoinedTable:
    """A table for a console of any width: what does not fit beside goes below, the words that name a row repeated.

    Where the settings alone would fill the width, they are listed first, and the rows refer to them by a number.
    """

    table: Table
    lines: tuple[str, ...]
    keys: int  # how many of the first columns are settings

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.table.title, style="bold")
        table = self.table
        columns = zip(*[table.headings[: table.words], *(row[: table.words] for row in table.rows)], strict=True)
        if sum(max(map(cell_len, column)) + 2 for column in columns) > SETTINGS_ROOM * options.max_width:
            table, listed = _numbered(table, self.keys)
            for number, line in enumerate(listed, 1):
                yield Text(harmless(f"[{number}] {line}"))
            yield Text()
        cells = [[harmless(row[column]) for row in table.rows] for column in range(len(table.headings))]
        cells = [column if number < table.words else _padded(column) for number, column in enumerate(cells)]
        heads = [harmless(name) for name in table.headings]
        widths = [max(map(cell_len, [*column, *head.split()])) + GAP for head, column in zip(heads, cells, strict=True)]
        for block in _blocks(table, widths, options.max_width):
            shown = RichTable(
                box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False, show_edge=False
            )
            for column in block:
                word = column < table.words
                shown.add_column(
                    heads[column] if word else "\n".join(heads[column].split()),
                    justify="left" if word else "right",
                    vertical="bottom",
                    overflow="fold",
                    no_wrap=not word,
                    style="dim" if heads[column] == "chance" else "",
                )
            for row in range(len(table.rows)):
                shown.add_row(*(Text(cells[column][row]) for column in block))
            yield shown
            yield Text()
        for line in self.lines:
            yield Text(harmless(line), style="dim")


def _numbered(table: Table, keys: int) -> tuple[Table, list[str]]:
    """The table with a number in place of the settings, and the settings."""
    named = [
        " ".join(f"{key}={cell}" for key, cell in zip(table.headings, row[:keys], strict=False)) for row in table.rows
    ]
    listed = list(dict.fromkeys(named))
    rows = tuple((f"[{listed.index(name) + 1}]", *row[keys:]) for name, row in zip(named, table.rows, strict=True))
    return Table(table.title, ("", *table.headings[keys:]), rows, table.words - keys + 1), listed


def _blocks(table: Table, widths: Sequence[int], room: int) -> list[list[int]]:
    """The columns of each part that fits; a metric and its chance stay together."""
    words = list(range(table.words))
    units: list[list[int]] = []
    for column in range(table.words, len(table.headings)):
        if table.headings[column] == "chance" and units:
            units[-1].append(column)
        else:
            units.append([column])
    left = room + GAP - sum(widths[column] for column in words)  # none behind the last
    blocks: list[list[int]] = [[]]
    for unit in units:
        if blocks[-1] and sum(widths[column] for column in [*blocks[-1], *unit]) > left:
            blocks.append([])
        blocks[-1] += unit
    return [[*words, *block] for block in blocks]


def _padded(cells: list[str]) -> list[str]:
    """Numbers with and without an interval, one below the other by their last digit."""
    heads, tails = zip(
        *((head, sign + tail) for head, sign, tail in (cell.partition(" [") for cell in cells)), strict=True
    )
    width = max(map(cell_len, tails))
    return [head + tail + " " * (width - cell_len(tail)) for head, tail in zip(heads, tails, strict=True)]
