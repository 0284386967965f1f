"""Forgetting: how a client's share of a label fades after it stops taking part, as a table and as a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..evaluation.fading import Fading
from ..harmless import harmless
from ..imports import later
from .figure_files import COLOURS, MARKERS, default_style, figure_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from . import canvas
else:
    canvas = later("provfl_cli.reporting.canvas")

CLIENTS_SHOWN = 8
ROUNDS_SHOWN = 8
CAPTION = (
    "Mean share of each client in all contributions to predictions of the label that it holds most examples of; "
    "the ringed mark is the last round in which it took part, the dotted line what is left of it since."
)


def show_fading(curves: Sequence[Fading], label_names: Sequence[str]) -> RenderableType:
    """The clients that have not taken part for longest, by rounds; `*` marks the last round in which each did."""
    if not curves:
        return Text("no input was traced", style="dim")
    shown = curves[:CLIENTS_SHOWN]
    rounds = _spread(curves[0].rounds, ROUNDS_SHOWN)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False, show_edge=False)
    table.add_column("client", justify="right", no_wrap=True)
    table.add_column("label", overflow="ellipsis", no_wrap=True, max_width=16)
    table.add_column("last in", justify="right", no_wrap=True)
    for number in rounds:
        table.add_column(str(number), justify="right", no_wrap=True)
    for curve in shown:
        by_round = dict(zip(curve.rounds, curve.shares, strict=True))
        marked = max((number for number in rounds if number <= curve.last), default=None)
        cells = [_cell(by_round[number], number == marked, number > curve.last) for number in rounds]
        table.add_row(str(curve.client), Text(harmless(label_names[curve.label])), str(curve.last), *cells)
    notes = [
        "share of a client in all contributions to the label that it holds most of",
        "*: the last round in which it took part, or the one shown before that",
    ]
    if len(curves) > len(shown):
        notes.append(f"{len(curves) - len(shown)} more clients took part since")
    return Group(table, Text("; ".join(notes), style="dim"))


@default_style()
def figure(curves: Sequence[Fading], label_names: Sequence[str]) -> Figure:
    """The same as lines over the rounds, with one sentence below that says what they are."""
    drawn = canvas.empty(7.2, 4.2)
    axes = drawn.add_subplot()
    for number, curve in enumerate([curve for curve in curves if not np.isnan(curve.shares).all()][:CLIENTS_SHOWN]):
        colour, marker = COLOURS[number], MARKERS[number]
        rounds, shares = np.asarray(curve.rounds), np.asarray(curve.shares)
        name = f"client {curve.client}, label {figure_text(label_names[curve.label])}"
        taking_part = rounds <= curve.last
        axes.plot(rounds[taking_part], shares[taking_part], color=colour, marker=marker, markersize=4, label=name)
        since = rounds >= (rounds[taking_part].max() if taking_part.any() else rounds.min())
        axes.plot(rounds[since], shares[since], color=colour, marker=marker, markersize=4, linestyle=":")
        at = np.flatnonzero(rounds == curve.last)
        axes.plot(rounds[at], shares[at], marker="o", markersize=11, markerfacecolor="none", color=colour, linestyle="")
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xlabel("round")
    axes.set_ylabel("share of the label's contributions")
    canvas.whole_numbers(axes.xaxis)
    if axes.get_lines():
        drawn.legend(loc="outside right upper", fontsize=8, frameon=False)
    drawn.supxlabel(CAPTION, fontsize=7.5, wrap=True)
    return drawn


def _spread(rounds: Sequence[int], most: int) -> list[int]:
    """At most so many of the rounds, evenly spread, first and last among them."""
    if len(rounds) <= most:
        return list(rounds)
    return [rounds[position] for position in np.linspace(0, len(rounds) - 1, most).round().astype(int)]


def _cell(share: float, marked: bool, after: bool) -> Text:
    if math.isnan(share):
        return Text("–", style="dim")
    return Text(f"{share:.3f}{'*' if marked else ' '}", style="bold" if marked else "dim" if after else "")
