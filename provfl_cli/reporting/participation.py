"""Who took part when: a row for every client and round, and a compact table of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd


CLIENTS_DRAWN = 40  # of more, every round only tells how many
ROUNDS_SHOWN = 20
MARKS = {
    "trained": ("█", "trained, fused in the round"),
    "partial": ("▄", "trained fewer epochs"),
    "late": ("→", "started, fused later"),
    "arrived": ("←", "late work fused"),
    "dropped": ("x", "returned nothing"),
    "unused": ("x", "started, its update too stale"),
    "not_joined": (" ", "not joined yet"),
    "left": (" ", "left"),
}
NOT_CHOSEN = "·"


def table(frame: pd.DataFrame, ids: Sequence[int]) -> RenderableType:
    """Rounds and clients as characters, or, of more than 40 clients, how many did what in each round.

    The middle of many rounds is left out.

    Args:
        frame: what `results.participation.frame` makes.
        ids: numbers of the clients kept.
    """
    numbers = sorted(set(frame["round"].tolist()))
    half = ROUNDS_SHOWN // 2
    shown = numbers if len(numbers) <= ROUNDS_SHOWN else [*numbers[:half], None, *numbers[-half:]]
    statuses = [status for status in MARKS if (frame["status"] == status).any()]
    return _characters(frame, ids, shown, statuses) if len(ids) <= CLIENTS_DRAWN else _counts(frame, shown, statuses)


def _characters(
    frame: pd.DataFrame, ids: Sequence[int], shown: Sequence[int | None], statuses: Sequence[str]
) -> RenderableType:
    width = max(len(str(client)) for client in ids)
    lines = [Text(f"{'client' if not digit else '':>6} ", style="dim") for digit in range(width)]
    for client in ids:
        for line, digit in zip(lines, str(client).rjust(width), strict=True):
            line.append(digit)
    marks = {
        (number, client): MARKS[status][0]
        for number, client, status in zip(frame["round"], frame["client"], frame["status"], strict=True)
    }
    for number in shown:
        if number is None:
            lines.append(Text(f"{'…':>6}", style="dim"))
            continue
        cells = "".join(marks.get((number, client), NOT_CHOSEN) for client in ids)
        lines.append(Text.assemble((f"{number:>6} ", "dim"), (cells, "cyan")))
    known = [f"{MARKS[status][0]} {MARKS[status][1]}" for status in statuses if MARKS[status][0].strip()]
    away = ["blank: not joined, or left"] if {"not_joined", "left"} & set(statuses) else []
    return Group(*lines, Text("; ".join([*known, f"{NOT_CHOSEN} not chosen", *away]), style="dim"))


def _counts(frame: pd.DataFrame, shown: Sequence[int | None], statuses: Sequence[str]) -> RenderableType:
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False, show_edge=False)
    for name in ("round", *statuses):
        drawn.add_column(name.replace("_", " "), justify="right", overflow="fold")
    counts = frame.groupby(["round", "status"]).size()
    for number in shown:
        if number is None:
            drawn.add_row("…")
        else:
            drawn.add_row(str(number), *(f"{counts.get((number, status), 0):,}" for status in statuses))
    return drawn
