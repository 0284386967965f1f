"""The figure of an experiment: its first metric by method, chance and published figures drawn in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

import lazy_loader as lazy
import numpy as np

from ..comparison.join import plain
from ..comparison.reproduction import PublishedFigure, Reproduction, fits, in_order, name_of, same
from ..config.schema import Experiment
from ..evaluation.intervals import FEWEST_SEEDS
from ..evaluation.ranges import range_of
from .figure_files import COLOURS, MARKERS, default_style, figure_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from . import canvas
else:
    canvas = lazy.load("provfl_cli.reporting.canvas", suppress_warning=True)

DASHES = ("-", "--", ":", "-.")
CHANCE = "0.45"  # its grey
HOLLOW = ("o", "s", "D", "^", "v", "P")
WIDTH, HEIGHT = 3.6, 3.2  # inches of a panel
OWN_WORDS = {"provfl": 0, "tracefl": 1, "faithful": 2, "equations": 3}  # keep their colours in every figure


@dataclass(frozen=True)
class _Look:
    colour: str
    marker: str
    order: int
    hollow: bool

    @property
    def drawing(self) -> dict[str, Any]:
        """What matplotlib wants to know; earlier methods lie above later ones, whose marks look out below."""
        face = "white" if self.hollow else self.colour
        return {
            "color": self.colour, "marker": self.marker, "zorder": 30 - self.order, "markerfacecolor": face,
            "elinewidth": 0.8, "capsize": 2,
        }  # fmt: skip


@default_style()
def drawn(reproduction: Reproduction) -> Figure:
    """Lines over `experiment.x`, or a dot for each setting; 95% intervals over seeds as bars.

    One panel for each value of `experiment.facet`, else for each of the first two metrics: a strict one beside a loose.
    """
    experiment = reproduction.experiment
    frame = reproduction.joined.frame[reproduction.joined.frame["mean"].notna()]
    frame = frame.rename(columns=dict(zip(reproduction.joined.words, plain(reproduction.joined.words), strict=True)))
    if experiment.x:
        frame = frame.assign(**{experiment.x: frame[experiment.x].astype(str)})  # rounds are numbers, settings text
    looks = _looks(in_order(experiment.methods, frame["method"]))
    panels = _panels(experiment, frame)
    keys = [key for key in plain(reproduction.joined.words) if key not in ("method", experiment.x, experiment.facet)]
    names = [name for name, _ in _combinations(panels[0].rows, keys)]
    tall = HEIGHT if experiment.x else 1.0 + 0.16 * max((len(panel.rows) for panel in panels), default=0)
    made = canvas.empty(max(WIDTH * len(panels), 5.0) + 1.6, max(tall, 2.4))
    all_axes = made.subplots(1, len(panels), squeeze=False, sharey=experiment.facet is not None or not experiment.x)[0]
    for axes, panel in zip(all_axes, panels, strict=True):
        theirs = reproduction.published if panel.metric == experiment.metrics[0] else ()
        published = [figure for figure in theirs if fits(figure, panel.setting)]
        axes.set_title(figure_text(panel.title), fontsize=9)
        if experiment.x:
            _lines(axes, panel.rows, experiment.x, keys, looks, published)
        else:
            _dots(axes, panel.rows, keys, looks, published, names)
        _label(axes, panel.metric, experiment.x)
    handles = {text: line for axes in all_axes for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    made.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=7.5, frameon=False)
    made.supxlabel(figure_text(_caption(reproduction)), fontsize=7, wrap=True)
    return made


@dataclass(frozen=True)
class _Panel:
    title: str
    metric: str
    setting: Mapping[str, str]
    rows: pd.DataFrame


def _panels(experiment: Experiment, frame: pd.DataFrame) -> list[_Panel]:
    """What is drawn side by side."""
    facet, first = experiment.facet, experiment.metrics[0]
    if facet is None:
        parts = ((metric, frame[frame["metric"] == metric]) for metric in experiment.metrics[:2])
        return [_Panel("", metric, {}, rows) for metric, rows in parts if len(rows)] or [_Panel("", first, {}, frame)]
    own = frame[frame["metric"] == first]
    return [
        _Panel(f"{_short(facet)}: {value}", first, {facet: str(value)}, rows)
        for value, rows in own.groupby(facet, sort=False)
    ]


def _looks(methods: Sequence[str]) -> Mapping[str, _Look]:
    """A colour and a mark for each method, the same in all figures for our own ways of tracing."""
    free = [number for number in range(len(COLOURS)) if number not in {OWN_WORDS.get(name) for name in methods}]
    looks: dict[str, _Look] = {}
    for order, name in enumerate(methods):
        hollow = name not in OWN_WORDS and not free
        number = OWN_WORDS[name] if name in OWN_WORDS else free.pop(0) if free else order % len(COLOURS)
        looks[name] = _Look(COLOURS[number], MARKERS[number], order, hollow)
    return looks


def _lines(
    axes: Axes,
    frame: pd.DataFrame,
    x: str,
    keys: Sequence[str],
    looks: Mapping[str, _Look],
    published: Sequence[PublishedFigure],
) -> None:
    words, place = _places(frame[x])
    others = _combinations(frame, keys)
    for number, (other, part) in enumerate(others):
        dash = DASHES[number % len(DASHES)]
        for method, look in looks.items():
            own = part[part["method"] == method].sort_values(x, key=lambda column: column.map(place))
            if own.empty:
                continue
            name = f"{method}, {other}" if len(others) > 1 else method
            at = own[x].map(place).to_numpy(float)
            shape: dict[str, Any] = {
                "linestyle": dash,
                "linewidth": 1.3,
                "markersize": 4 + look.order if len(own) <= 20 else 0,
            }
            axes.errorbar(at, own["mean"], yerr=_bars(own), label=figure_text(name), **look.drawing, **shape)
        chance = part.groupby(part[x].map(place))["chance"].mean().sort_index()
        if chance.notna().any():
            name = f"chance, {other}" if len(others) > 1 else "chance"
            axes.plot(chance.index, chance, color=CHANCE, linestyle=dash, linewidth=1.0, label=figure_text(name))
    for number, name in enumerate(dict.fromkeys(figure.name for figure in published)):
        theirs = [figure for figure in published if figure.name == name and x in figure.setting]
        points = sorted(
            (place[word], figure.value) for figure in theirs for word in words if same(word, figure.setting[x])
        )
        if points:
            axes.plot(
                *zip(*points, strict=True), linestyle="", marker=HOLLOW[number % len(HOLLOW)], color="black",
                markerfacecolor="none", markersize=7, label=figure_text(f"published: {name}"),
            )  # fmt: skip
    if words and list(place.values()) == list(range(len(words))):
        axes.set_xticks(range(len(words)), [figure_text(word) for word in words], fontsize=8)


def _places(values: pd.Series) -> tuple[list[str], dict[str, float]]:
    """Where each value stands: by its number where the steps are about even, else one step each."""
    words = [str(value) for value in dict.fromkeys(values)]
    try:
        numbers = sorted({float(word): word for word in words}.items())
    except ValueError:
        return words, {word: float(number) for number, word in enumerate(words)}
    steps = np.diff([number for number, _ in numbers])
    if len(steps) and steps.max() > 3 * steps.min():
        return [word for _, word in numbers], {word: float(at) for at, (_, word) in enumerate(numbers)}
    return [word for _, word in numbers], {word: number for number, word in numbers}


def _combinations(frame: pd.DataFrame, keys: Sequence[str]) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each combination of settings, and its name."""
    if not keys:
        return [("", frame)]
    return [
        (", ".join(f"{_short(key)}={value}" for key, value in zip(keys, values, strict=True)), part)
        for values, part in frame.groupby(list(keys), sort=False)
    ]


def _dots(
    axes: Axes,
    frame: pd.DataFrame,
    keys: Sequence[str],
    looks: Mapping[str, _Look],
    published: Sequence[PublishedFigure],
    names: Sequence[str],
) -> None:
    """A row for each of `names`, the settings of the first panel; empty where this one has none."""
    groups = dict(_combinations(frame, keys))
    for row, part in ((row, groups[name]) for row, name in enumerate(names) if name in groups):
        for number, (method, look) in enumerate(looks.items()):
            own = part[part["method"] == method]
            if own.empty:
                continue
            at = row + 0.6 * ((number + 0.5) / len(looks) - 0.5)
            where = [at] * len(own)
            axes.errorbar(
                own["mean"],
                where,
                xerr=_bars(own),
                linestyle="",
                markersize=5,
                label=figure_text(method),
                **look.drawing,
            )
        chance = part["chance"].mean()
        if not np.isnan(chance):
            axes.plot([chance] * 2, [row - 0.4, row + 0.4], color=CHANCE, linewidth=1.5, label="chance")
        first = part.iloc[0]
        setting = {key: str(first[key]) for key in keys}
        for number, figure in enumerate(figure for figure in published if fits(figure, setting)):
            axes.plot(
                figure.value, row, marker=HOLLOW[number % len(HOLLOW)], color="black", markerfacecolor="none",
                markersize=9, linestyle="", label=figure_text(f"published: {figure.name}"),
            )  # fmt: skip
        if row:
            axes.axhline(row - 0.5, color="0.9", linewidth=0.6, zorder=0)
    shown = [name.partition("=")[2] if len(keys) == 1 else name for name in names]
    axes.set_yticks(range(len(names)), [figure_text(name) for name in shown], fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _bars(rows: pd.DataFrame) -> np.ndarray:
    """How far each interval reaches below its mean and above it, `[2, rows]`; not at all where there is none."""
    reach = [rows["mean"] - rows["low"], rows["high"] - rows["mean"]]
    bars: np.ndarray = np.maximum(np.stack([side.fillna(0).to_numpy(float) for side in reach]), 0.0)
    return bars


def _label(axes: Axes, metric: str, x: str | None) -> None:
    """Axes named and, for scores, cut to where scores can be."""
    name = fill(figure_text(name_of(metric).partition(":")[0]), 40)
    bounded = range_of(metric) == (0.0, 1.0)
    axes.set_xlabel(figure_text(_short(x)) if x else name, fontsize=9)
    axes.tick_params(labelsize=8)
    if x:
        axes.set_ylabel(name, fontsize=9)
    if bounded:
        (axes.set_ylim if x else axes.set_xlim)(-0.03, 1.05)
    if metric in ("seconds", "ms_per_input"):
        (axes.set_yscale if x else axes.set_xscale)("log")
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _short(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ")


def _caption(reproduction: Reproduction) -> str:
    seeds = max((seeds for _, seeds in reproduction.joined.sizes.values()), default=1)
    bars = f" Bars: 95% intervals over {seeds} seeds." if seeds >= FEWEST_SEEDS else ""
    return f"{reproduction.experiment.shows}{bars}"
