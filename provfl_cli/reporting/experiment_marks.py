"""Marks of an experiment's figure: curves over an axis, or a row for each method; intervals, chance, published figures.

All methods are to be seen: where there are few values on the axis their marks stand side by side, where there are many
the lower of two lines is the wider. Colour, mark and, for other settings, dashes: no difference is in colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..comparison.curves import CROWDED, MODEL, TIMES, Curve, Panel, Published, short_name
from ..evaluation.ranges import range_of
from .figure_files import COLOURS, MARKERS, figure_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

DASHES = ("-", "--", ":", "-.")
FACES = (None, "white", "0.75", "white")  # of marks, by variant; None: the method's colour
CHANCE = "0.45"  # its grey
THEIRS = ("o", "s", "D", "^", "v", "P")  # hollow marks of published figures
STROKES = ((0, (1, 1.5)), (0, (5, 1.5)))  # of published figures for all values of the axis
OWN_WORDS = {"provfl": 0, "tracefl": 1, "faithful": 2, "equations": 3}  # keep their colours in every figure
BESIDE = 4.2  # points between marks side by side
MARKED = 8  # marks of a crowded curve
SIZE = 4.0  # of marks, in points


@dataclass(frozen=True)
class Look:
    """How a method is drawn in every panel; `order` says who lies above whom."""

    colour: str
    marker: str
    hollow: bool
    order: int

    def mark(self, variant: int = 0) -> dict[str, Any]:
        """What matplotlib wants to know of its marks."""
        face = "white" if self.hollow else FACES[variant % len(FACES)] or self.colour
        return {"marker": self.marker, "markerfacecolor": face, "markeredgecolor": self.colour, "markersize": SIZE}


@dataclass(frozen=True)
class Scale:
    """Where the values of the axis stand, and how wide the axis is.

    `even` says that they stand in even steps, whatever their size.
    """

    places: Mapping[str, float]
    even: bool
    points: float  # of the axis' width

    @property
    def crowded(self) -> bool:
        """Whether there are too many values for bars."""
        return len(self.places) > CROWDED

    def beside(self, number: int, of: int) -> float:
        """How far from its place the mark number `number` of `of` side by side stands."""
        if self.crowded or not self.places:
            return 0.0
        stands = sorted(self.places.values())
        span = stands[-1] - stands[0] or 1.0
        step = min(np.diff(stands), default=span)
        width = min(BESIDE * span / (0.85 * self.points), 0.7 * step / of)
        return (number - (of - 1) / 2) * width


def looks(methods: Sequence[str]) -> Mapping[str, Look]:
    """A colour and a mark for each method, the same in all figures for our own ways of tracing."""
    named = [name for name in methods if name != MODEL]
    free = [number for number in range(len(COLOURS)) if number not in {OWN_WORDS.get(name) for name in named}]
    made: dict[str, Look] = {MODEL: Look("black", "o", False, 0)}
    for order, name in enumerate(named):
        hollow = name not in OWN_WORDS and not free
        number = OWN_WORDS[name] if name in OWN_WORDS else free.pop(0) if free else order % len(COLOURS)
        made[name] = Look(COLOURS[number], MARKERS[number], hollow, order)
    return made


def scale_of(values: Sequence[str], points: float) -> Scale:
    """Each value by its number where the steps are about even, else one step each."""
    try:
        numbers = [float(word) for word in values]
    except ValueError:
        return Scale({word: float(at) for at, word in enumerate(values)}, True, points)
    steps = np.diff(numbers)
    if len(steps) and steps.max() > 3 * steps.min():
        return Scale({word: float(at) for at, word in enumerate(values)}, True, points)
    return Scale(dict(zip(values, numbers, strict=True)), False, points)


def ends(rows: pd.DataFrame, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Low and high ends of the intervals as far as the metric goes, and which of each are cut there.

    NaN where there is no interval. On a scale of times, which has no zero, a lower end is cut at a third of the least.
    """
    least, most = range_of(metric)
    if metric in TIMES:
        least = float(rows["mean"].min()) / 3
    low, high = rows["low"].to_numpy(float), rows["high"].to_numpy(float)
    return np.maximum(low, least), np.minimum(high, most), low < least - 1e-9, high > most + 1e-9


def curves(axes: Axes, panel: Panel, x: str, scale: Scale, look: Mapping[str, Look]) -> bool:
    """Draw a panel over its axis; whether an interval was cut."""
    theirs = [own for own in panel.published if x in own.rows and (own.rows[x] != "").any()]
    of = len(panel.curves) + len(theirs)
    at: np.ndarray
    cut = False
    for number, curve in enumerate(panel.curves):
        rows = curve.rows.assign(at=curve.rows[x].map(scale.places)).sort_values("at")
        at = rows["at"].to_numpy(float) + scale.beside(number, of)
        cut |= _interval(axes, at, rows, panel.metric, look[curve.method].colour, scale.crowded)
        _curve(axes, at, rows, curve, look[curve.method], number, len(panel.curves), scale.crowded)
    _chances(axes, panel, x, scale)
    for own in panel.published:
        name = figure_text(f"published: {own.name}")
        if own in theirs:
            rows = own.rows[own.rows[x].isin(scale.places)]
            at = rows[x].map(scale.places).to_numpy(float) + scale.beside(len(panel.curves) + theirs.index(own), of)
            axes.plot(
                at, rows["mean"], label=name, linestyle="", marker=THEIRS[own.number % len(THEIRS)], color="black",
                markerfacecolor="none", markersize=SIZE, markeredgewidth=0.8,
            )  # fmt: skip
        else:  # one figure for all values of the axis
            name, stroke = f"{name}, over all {short_name(x)}s", STROKES[own.number % len(STROKES)]
            for value in own.rows["mean"].unique():
                axes.axhline(value, color="black", linewidth=0.9, linestyle=stroke, label=name)
    return cut


def _curve(
    axes: Axes, at: np.ndarray, rows: pd.DataFrame, curve: Curve, look: Look, number: int, of: int, crowded: bool
) -> None:
    step = max(len(rows) // MARKED, 1)
    shape: dict[str, Any] = {"markevery": (number * step // of, step)} if crowded else {}
    axes.plot(
        at, rows["mean"], label=figure_text(curve.name), color=look.colour, zorder=30 - number,
        linewidth=1.0 + 1.2 * number / max(of - 1, 1) * crowded, linestyle=DASHES[curve.variant % len(DASHES)],
        **look.mark(curve.variant), **shape,
    )  # fmt: skip


def _interval(axes: Axes, at: np.ndarray, rows: pd.DataFrame, metric: str, colour: str, bands: bool) -> bool:
    low, high, below, above = ends(rows, metric)
    if bands:
        axes.fill_between(at, low, high, color=colour, alpha=0.16, linewidth=0)
    else:
        drawn: dict[str, Any] = {"color": colour, "zorder": 3}
        axes.vlines(at, low, high, linewidth=0.8, **drawn)
        for end, cut in ((low, below), (high, above)):
            axes.plot(at[~cut], end[~cut], linestyle="", marker="_", markersize=3.5, markeredgewidth=0.8, **drawn)
    return bool(below.any() or above.any())


def _chances(axes: Axes, panel: Panel, x: str, scale: Scale) -> None:
    """One grey line for each variant, and none twice."""
    seen: list[tuple[list[float], list[float]]] = []
    for variant in dict.fromkeys(curve.variant for curve in panel.curves):
        rows = [curve.rows for curve in panel.curves if curve.variant == variant]
        by_place: dict[float, list[float]] = {}
        for own in rows:
            for word, chance in zip(own[x], own["chance"], strict=True):
                if not math.isnan(chance):
                    by_place.setdefault(scale.places[word], []).append(chance)
        at = sorted(by_place)
        chance = [float(np.mean(by_place[place])) for place in at]
        if at and (at, chance) not in seen:
            seen.append((at, chance))
            axes.plot(
                at, chance, color=CHANCE, linestyle=DASHES[variant % len(DASHES)], linewidth=1.0, label="chance",
                zorder=2, marker="" if len(at) > 1 else "_",
            )  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of a figure without an axis: a heading, a method or a published figure, `at` from above."""

    at: int
    text: str
    group: tuple[str, ...]
    kind: str  # heading | method | published


def rows_of(panels: Sequence[Panel], keys: Sequence[str], groups: Sequence[tuple[str, ...]]) -> list[Row]:
    """For each group a heading (where there are settings), its methods, and what others published for it."""
    made: list[Row] = []
    methods = list(dict.fromkeys(curve.method for panel in panels for curve in panel.curves))
    for group in groups:
        if keys:
            made.append(Row(len(made), "", group, "heading"))
        for method in methods:
            made.append(Row(len(made), method, group, "method"))
        theirs = [own for panel in panels for own in panel.published if len(_group(own.rows, keys, group))]
        for name in dict.fromkeys(own.name for own in theirs):
            made.append(Row(len(made), name, group, "published"))
    return made


def dots(axes: Axes, panel: Panel, keys: Sequence[str], rows: Sequence[Row], look: Mapping[str, Look]) -> bool:
    """Draw a panel in rows; whether an interval was cut."""
    cut = False
    by_method = {curve.method: curve for curve in panel.curves}
    theirs: Mapping[str, Published] = {own.name: own for own in panel.published}
    for row in rows:
        if row.kind == "method":
            own = _group(by_method[row.text].rows, keys, row.group) if row.text in by_method else None
            if own is None or own.empty:
                middle = axes.get_yaxis_transform()
                axes.text(0.5, row.at, "–", color=CHANCE, va="center", ha="center", transform=middle)
                continue
            cut |= _row(axes, row.at, own, panel.metric, look[row.text])
        elif row.kind == "published" and row.text in theirs:
            own = _group(theirs[row.text].rows, keys, row.group)
            axes.plot(
                own["mean"], [row.at] * len(own), linestyle="", marker="o", markerfacecolor="white", color="black",
                markersize=SIZE,
            )  # fmt: skip
    for group in dict.fromkeys(row.group for row in rows):
        here = [row.at for row in rows if row.group == group and row.kind != "heading"]
        chances = [own["chance"].mean() for curve in panel.curves if len(own := _group(curve.rows, keys, group))]
        known = [chance for chance in chances if not math.isnan(chance)]
        if known:
            axes.plot([np.mean(known)] * 2, [here[0] - 0.5, here[-1] + 0.5], color=CHANCE, linewidth=1.2, zorder=2)
    return cut


def _row(axes: Axes, at: int, own: pd.DataFrame, metric: str, look: Look) -> bool:
    low, high, below, above = ends(own, metric)
    drawn: dict[str, Any] = {"color": look.colour, "zorder": 3}
    where = np.full(len(own), float(at))
    axes.hlines(where, low, high, linewidth=0.8, **drawn)
    for end, cut in ((low, below), (high, above)):
        axes.plot(end[~cut], where[~cut], linestyle="", marker="|", markersize=3.5, markeredgewidth=0.8, **drawn)
    axes.plot(own["mean"], where, linestyle="", zorder=4, **look.mark())
    return bool(below.any() or above.any())


def _group(rows: pd.DataFrame, keys: Sequence[str], group: Sequence[str]) -> pd.DataFrame:
    """The rows of a group; a setting that a row does not name fits every value."""
    for key, value in zip(keys, group, strict=True):
        rows = rows[rows[key].isin([value, ""])]
    return rows
