"""What a run shows: each function makes one part of it from plain values, ready for `Console.print`.

Everything fits 80 columns and reads without colour; where output is not a terminal there are no control codes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from ..harmless import harmless
from .drawing import bar, heat, in_colour, shade
from .table import Table as TextTable
from .terminal import make_console as make_console

ROUNDS_SHOWN = 20
CLIENTS_SHOWN = 12
LABELS_SHOWN = 12


def heading(text: str) -> RenderableType:
    """The line above a part, with an empty one before it."""
    return Group(Text(), Text(text, style="bold"))


def header(
    dataset: str, model: str, clients: str, fusion: str, device: str, seed: int, lines: Sequence[str] = ()
) -> RenderableType:
    """What is about to run, in three lines, then what the user should be told, such as clients dropped."""
    return Group(
        Text.assemble(("ProvFL", "bold cyan"), "  ", (dataset, "bold"), " on ", (model, "bold")),
        Text(f"{clients}, {fusion}"),
        Text(f"{device}, seed {seed}", style="dim"),
        *(Text(harmless(line), style="yellow") for line in lines),
    )


def rounds(rows: Sequence[Mapping[str, float]]) -> RenderableType:
    """The rounds, from rows with `round, clients, loss, accuracy, seconds`; the middle of many is left out.

    Rows with a `perplexity` are of a model that answers prompts: what it says exactly is its accuracy.
    """
    generates = any("perplexity" in row for row in rows)
    share = ("perplexity", "exact match") if generates else ("accuracy",)
    table = _table("round", "clients", "loss", *share, "seconds")
    table.columns[-2].justify = "left"
    half = ROUNDS_SHOWN // 2
    shown = list(rows) if len(rows) <= ROUNDS_SHOWN else [*rows[:half], None, *rows[-half:]]
    for row in shown:
        if row is None:
            table.add_row("…", *[""] * (len(table.columns) - 1))
            continue
        accuracy = Text.assemble(f"{row['accuracy']:.3f} ", (bar(row["accuracy"], 20), "cyan"))
        table.add_row(
            f"{row['round']:.0f}",
            f"{row['clients']:.0f}",
            f"{row['loss']:.3f}",
            *([f"{row.get('perplexity', math.nan):.4g}"] if generates else []),
            accuracy,
            f"{row['seconds']:.1f}",
        )
    return table


class _Labels:
    """The heat table; a class only because its cells depend on whether the console shows colour."""

    def __init__(self, counts: Mapping[int, np.ndarray], names: Sequence[str], min_examples: int) -> None:
        self._counts, self._names, self._min_examples = counts, names, min_examples

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        colour = in_colour(console)
        every = np.stack(list(self._counts.values()))
        columns = np.sort(np.argsort(-every.sum(axis=0), kind="stable")[:LABELS_SHOWN])
        room = (options.max_width - 20) // max(len(columns), 1) - 1
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
        table.add_column("client", justify="right", no_wrap=True)
        for name in _headings(self._names, columns, max(room, 4)):
            table.add_column(Text(name), justify="right", no_wrap=True)
        table.add_column("all", justify="right", no_wrap=True)
        shown, rest = _largest(self._counts)
        most = max(int(every.max()), 1)
        for client in shown:
            row = self._counts[client]
            cells = [_cell(int(row[column]), most, colour) for column in columns]
            table.add_row(str(client), *cells, f"{row.sum():,}")
        if rest:
            others = np.sum([self._counts[client] for client in rest], axis=0)
            cells = [Text(f"{others[column]:,}", style="dim") for column in columns]
            table.add_row(Text(f"{len(rest)} more", style="dim"), *cells, Text(f"{others.sum():,}", style="dim"))
        holders = (every >= self._min_examples).sum(axis=0)
        table.add_row("holders", *(str(holders[column]) for column in columns), "", style="bold")
        yield table
        notes = [f"shaded: examples of a label; holders: clients with {self._min_examples} or more"]
        if len(columns) < every.shape[1]:
            notes.append(f"the {len(columns)} most frequent of {every.shape[1]} labels")
        yield Text("; ".join(notes), style="dim")


def labels(counts: Mapping[int, np.ndarray], names: Sequence[str], min_examples: int) -> RenderableType:
    """Clients by labels, shaded; the largest clients of many, the others summed up in one line.

    Args:
        counts: training examples by label of each client, int `[classes]`.
        names: of the labels.
        min_examples: from so many on a client holds a label.
    """
    return _Labels(counts, names, min_examples)


def _largest(counts: Mapping[int, np.ndarray]) -> tuple[list[int], list[int]]:
    """The clients to show, in the order of their numbers, and the others."""
    if len(counts) <= CLIENTS_SHOWN:
        return list(counts), []
    by_size = sorted(counts, key=lambda client: (-int(counts[client].sum()), client))
    return sorted(by_size[: CLIENTS_SHOWN - 1]), sorted(by_size[CLIENTS_SHOWN - 1 :])


def _cell(count: int, most: int, colour: bool) -> Text:
    if not count:
        return Text("·", style="dim")
    fraction = (count / most) ** 0.5  # the eye tells few from none better this way
    if colour:
        return Text(f"{count:>4,}", style=heat(fraction))
    return Text(f"{shade(fraction)}{count:>4,}")


def localization(shown: Sequence[TextTable], note: str) -> RenderableType:
    """The localization tables, what chance means in them, and where the data came from."""
    parts: list[RenderableType] = []
    for section in map(_without_round, shown):
        table = _table(*section.headings, padding=0)
        table.columns[0].justify = "left"
        for column, name in zip(table.columns, section.headings, strict=True):
            if name == "chance":
                column.style = "dim"
            elif name in ("accuracy", "majority"):
                column.style = "bold"
        for row in section.rows:
            table.add_row(*row)
        parts += [Text(section.title, style="bold"), table, Text()]
    explained = (
        "chance: clients picked at random; best constant: one and the same client for every input; "
        "majority: the largest holder of the label; ties: inputs with several top clients"
    )
    return Group(*parts, Text(explained, style="dim"), Text(note, style="dim"))


def _without_round(table: TextTable) -> TextTable:
    """`table` with the round in its title, where there is only one: methods with long names need the room."""
    if "round" not in table.headings:
        return table
    at = table.headings.index("round")
    rounds = {row[at] for row in table.rows}
    if len(rounds) != 1:
        return table
    rows = tuple((*row[:at], *row[at + 1 :]) for row in table.rows)
    headings = (*table.headings[:at], *table.headings[at + 1 :])
    return TextTable(f"Round {rounds.pop()}. {table.title}", headings, rows, table.words)


def files(folder: Path, written: Mapping[str, str], start: Path) -> RenderableType:
    """Where the results are, relative to `start` (the folder of the call): file names with what is in them."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
    table.add_column(overflow="fold", style="cyan")
    table.add_column(style="dim")
    for name, meaning in written.items():
        table.add_row(f"  {name}", meaning)
    return Group(Text(f"{os.path.relpath(folder, start)}/", style="bold", overflow="fold"), table)


def _table(*headings: str, padding: int = 2) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, padding, 0, 0), header_style="dim", pad_edge=False, show_edge=False)
    for name in headings:
        table.add_column(name, justify="right", vertical="bottom", overflow="fold")
    return table


def _headings(names: Sequence[str], columns: np.ndarray, width: int) -> list[str]:
    """The names of the columns in `width` columns each; the labels' numbers where short names coincide."""
    cut = [Text(harmless(names[column])) for column in columns]
    for name in cut:
        name.truncate(width, overflow="ellipsis")
    short = [name.plain for name in cut]
    return short if len(set(short)) == len(short) else [str(column) for column in columns]
