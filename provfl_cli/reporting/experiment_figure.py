"""The figure of an experiment, as wide as a column of a paper: what it measured by method, chance, what others got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..comparison.curves import TIMES, Panel, Picture, picture
from ..config.schema import Experiment
from ..evaluation.ranges import range_of
from ..imports import later
from . import experiment_marks as marks
from . import experiment_words as words
from .figure_files import default_style, figure_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from . import canvas
else:
    canvas = later("provfl_cli.reporting.canvas")

WIDTH = 3.5  # inches: a column
PANEL = 1.35  # inches: height of a panel with an axis
ROW = 0.115  # inches: height of a row
STYLE: dict[Any, Any] = {
    "font.size": 7, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "axes.titlesize": 7, "axes.labelsize": 7, "legend.fontsize": 7,
}  # fmt: skip
SMALL = 6.5  # points: ticks, caption
LETTERS = 72  # of the caption in a line
MARGIN = 0.06  # beyond the ends of a scale, for marks that stand there
MOST_TICKS = 10


@default_style(STYLE)
def drawn(experiment: Experiment, frame: pd.DataFrame) -> Figure:
    """The figure of a tidy table.

    Over `experiment.x`: a panel for each metric, one below the other, beside one another for each value of
    `experiment.facet`. Without: a row for each setting and method, a panel for each metric side by side. Two metrics
    are drawn, and the global accuracy below where `experiment.metrics` names it.

    Args:
        experiment: what is shown.
        frame: see `comparison.curves`.

    Raises:
        InputError: the table has not what the experiment draws.
    """
    shown = picture(experiment, frame)
    look = marks.looks(list(dict.fromkeys(curve.method for panel in shown.panels for curve in panel.curves)))
    if experiment.x:
        return _over_axis(experiment, shown, look)
    return _in_rows(experiment, shown, look)


def _over_axis(experiment: Experiment, shown: Picture, look: Mapping[str, marks.Look]) -> Figure:
    assert experiment.x is not None
    columns = len(shown.grid[0])
    scale = marks.scale_of(shown.values, 72 * (WIDTH - 0.6) / columns)
    made = canvas.empty(WIDTH, PANEL)
    grid = made.subplots(len(shown.grid), columns, squeeze=False, sharex=True, sharey="row")
    cut = False
    for panels, all_axes in zip(shown.grid, grid, strict=True):
        for panel, axes in zip(panels, all_axes, strict=True):
            cut |= marks.curves(axes, panel, experiment.x, scale, look)
            _plain(axes)
            _along(axes.yaxis, panel)
    _named(experiment, shown, grid)
    name = words.axis_name(experiment.x)
    name = words.uneven(name) if scale.even and len(scale.places) > 1 else name
    for axes in grid[-1]:
        _values(axes, scale)
        axes.set_xlabel(words.lines(name, 70 // columns))
    dodged = not scale.crowded and any(len(panel.curves) + len(panel.published) > 1 for panel in shown.panels)
    said = words.lines(words.caption(experiment, shown, dodged, cut), LETTERS)
    height = PANEL * len(shown.grid) + _legend(made, grid) + 0.35
    _captioned(made, said, height)
    return made


def _named(experiment: Experiment, shown: Picture, grid: np.ndarray) -> None:
    """What each panel shows: above it, or, where panels have a facet, beside the first of a row."""
    for number, (panels, all_axes) in enumerate(zip(shown.grid, grid, strict=True)):
        title, unit = words.title_of(panels[0].metric), words.unit_of(panels[0].metric)
        if experiment.facet is None:
            all_axes[0].set_title(words.lines(title, 62), loc="left")
            all_axes[0].set_ylabel(unit)
            continue
        short = words.lines(words.short_title(panels[0].metric), 18)
        all_axes[0].set_ylabel(f"{short}\n({unit})")
        if not number:
            for panel, axes in zip(panels, all_axes, strict=True):
                axes.set_title(figure_text(words.group_name([experiment.facet], [str(panel.facet)])))


def _legend(made: Figure, grid: np.ndarray) -> float:
    """Put the names of all that is drawn above the panels, chance and published figures last; how high they are."""
    handles: dict[str, Any] = {}
    for axes in grid.flat:
        for line, text in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(text, line)
    names = sorted(handles, key=lambda text: (text.startswith("published: "), text == "chance"))
    columns = next(number for number in (4, 3, 2, 1) if number == 1 or _fit(names, number))
    made.legend(
        [handles[name] for name in names], names, loc="outside upper left", frameon=False, ncols=columns,
        handlelength=2.2, columnspacing=1.0, borderpad=0.1, labelspacing=0.3,
    )  # fmt: skip
    return 0.13 * -(-len(names) // columns)


def _fit(names: Sequence[str], columns: int) -> bool:
    """Whether a legend of these names is not wider than the figure, about."""
    parts = [part for part in np.array_split(np.array(names), columns) if len(part)]
    return sum(28 + 3.9 * max(map(len, part)) for part in parts) <= 72 * WIDTH


def _values(axes: Axes, scale: marks.Scale) -> None:
    """Mark the values that were run, or whole numbers where these are too many."""
    if len(scale.places) <= MOST_TICKS:
        axes.set_xticks(list(scale.places.values()), [figure_text(word) for word in scale.places])
    else:
        canvas.whole_numbers(axes.xaxis)


def _in_rows(experiment: Experiment, shown: Picture, look: Mapping[str, marks.Look]) -> Figure:
    rows = marks.rows_of(shown.panels, shown.keys, shown.groups)
    headings, named = ([row for row in rows if (row.kind == "heading") is wanted] for wanted in (True, False))
    made = canvas.empty(WIDTH, PANEL)
    all_axes = made.subplots(1, len(shown.panels), squeeze=False, sharey=True)[0]
    room = 72 * WIDTH - 3.7 * max(len(row.text) for row in named)  # points, beside the names
    letters = int(room / len(shown.panels) / 4.1)
    cut = False
    for panel, axes in zip(shown.panels, all_axes, strict=True):
        cut |= marks.dots(axes, panel, shown.keys, rows, look)
        _plain(axes)
        _along(axes.xaxis, panel)
        axes.set_title(words.lines(words.title_of(panel.metric), letters), loc="left")
        axes.set_xlabel(words.unit_of(panel.metric))
        for row in headings:
            axes.axhspan(row.at - 0.5, row.at + 0.5, color="0.93", linewidth=0, zorder=0)
    for axes in all_axes[1:]:
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", left=False)
    first = all_axes[0]
    first.set_yticks([row.at for row in named], [figure_text(row.text) for row in named])
    for tick, row in zip(first.get_yticklabels(), named, strict=True):
        tick.set_fontstyle("italic" if row.kind == "published" else "normal")
    first.set_ylim(len(rows) - 0.5, -0.5)
    first.set_zorder(1)  # its headings may reach into the next panel
    first.patch.set_visible(False)
    for row in headings:
        text = figure_text(words.group_name(shown.keys, row.group))
        size = SMALL * min(1.0, room / 3.8 / len(text))  # a long one is smaller, and not cut
        first.text(
            0.02, row.at, text, fontsize=size, va="center", fontweight="bold", transform=first.get_yaxis_transform(),
            in_layout=False,
        )  # fmt: skip
    said = words.lines(words.caption(experiment, shown, False, cut), LETTERS)
    _captioned(made, said, ROW * len(rows) + 0.75)
    return made


def _plain(axes: Axes) -> None:
    """Without what says nothing: a frame, and long marks."""
    axes.tick_params(labelsize=SMALL, length=2)
    axes.grid(color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _along(axis: Axis, panel: Panel) -> None:
    """The scale of a metric: as far as it goes; of times, which differ by magnitudes, a logarithm."""
    least, most = range_of(panel.metric)
    vertical = axis is axis.axes.yaxis
    limits = axis.axes.set_ylim if vertical else axis.axes.set_xlim
    if panel.metric in TIMES:
        (axis.axes.set_yscale if vertical else axis.axes.set_xscale)("log")
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    elif (least, most) == (0.0, 1.0):
        limits(-MARGIN, 1 + MARGIN)
        axis.set_ticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    elif (least, most) == (-1.0, 1.0):
        low = max(min([0.0, *(curve.rows[end].min() for curve in panel.curves for end in ("mean", "low"))]), -1.0)
        axis.set_ticks(marked := [tick for tick in (-1, -0.5, 0, 0.5, 1) if tick >= low], [f"{at:g}" for at in marked])
        limits(low - MARGIN, 1 + MARGIN)


def _captioned(made: Figure, caption: str, height: float) -> None:
    """Put the caption below, and give the figure its height in inches: of all else, and of the caption's lines."""
    made.supxlabel(caption, x=0.01, ha="left", fontsize=SMALL)
    made.set_size_inches(WIDTH, height + 0.115 * (1 + caption.count("\n")))
