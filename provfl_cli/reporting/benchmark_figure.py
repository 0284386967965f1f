"""The benchmark's figure: methods by tasks and methods by truths, the figures in the cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..comparison.benchmark import Benchmark
from ..comparison.headings import HEADINGS, name_of_method
from ..evaluation.ranges import range_of
from ..imports import later
from .figure_files import default_style, figure_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from . import canvas
else:
    canvas = later("provfl_cli.reporting.canvas")

COLOURS = "cividis"  # as good in grey, and for the colour-blind
DARK = 0.45  # below it a figure is written in white
CELL_WIDTH, CELL_HEIGHT = 0.95, 0.24  # inches


@default_style()
def drawn(benchmark: Benchmark) -> Figure:
    """Left the first metric of each task, right the mean over tasks of each metric; methods in the left one's order.

    At least one task has runs with at least one metric.
    """
    metrics = [name for name in benchmark.measured if range_of(name)[1] == 1.0]  # on one scale of colours
    frame = benchmark.frame[benchmark.frame["metric"].isin(metrics)]
    ranked = pd.MultiIndex.from_tuples(benchmark.ranked(metrics[0]), names=["method", "scope"])
    first_metric = frame[frame["metric"] == metrics[0]]
    tasks = [task for task in benchmark.tasks if task in set(first_metric["task"])]
    left = _with_chance(first_metric, "task", ranked, tasks)
    right = _with_chance(frame, "metric", ranked, metrics)
    made = canvas.empty(2.6 + CELL_WIDTH * max(len(tasks) + len(metrics), 2), 2.2 + CELL_HEIGHT * max(len(left), 2))
    first, second = made.subplots(1, 2, width_ratios=[len(tasks), len(metrics)], sharey=True)
    names = [*(name_of_method(method, scope) for method, scope in ranked), "chance"]
    _cells(first, left, tasks, names, _heading(metrics[0]))
    title = "mean over tasks" if len(tasks) > 1 else tasks[0]
    _cells(second, right, [_heading(metric) for metric in metrics], names, title)
    made.supxlabel("\n".join(map(figure_text, (benchmark.experiment.shows, _counts(benchmark)))), fontsize=7, wrap=True)
    return made


def _with_chance(frame: pd.DataFrame, by: str, ranked: pd.MultiIndex, columns: list[str]) -> np.ndarray:
    """The means of the methods, a row each and a column for each value of `by`, and a row of what chance scores."""
    means = frame.pivot_table("mean", ["method", "scope"], by, sort=False)
    chance = frame.groupby(by)["chance"].mean()
    rows = means.reindex(index=ranked, columns=columns).to_numpy(float)
    return np.vstack([rows, chance.reindex(columns).to_numpy(float)])


def _counts(benchmark: Benchmark) -> str:
    """Of how many inputs, retrainings and seeds the figures are, task by task."""
    parts = []
    for task in benchmark.tasks:
        own = benchmark.frame[benchmark.frame["task"] == task]
        most = own.groupby("metric")["mean"].max().to_dict()
        seeds = int(own["seeds"].max())
        words = [f"{seeds} seed{'s' * (seeds > 1)}", f"{most['inputs']:.0f} inputs each"]
        words += [f"{most['lds_subsets']:.0f} random halves"] if "lds_subsets" in most else []
        parts.append(f"{task}: {', '.join(words)}")
    return "; ".join(parts)


def _cells(axes: Axes, values: np.ndarray, columns: Sequence[str], names: Sequence[str], title: str) -> None:
    axes.imshow(values, cmap=COLOURS, vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            text = "0.00" if abs(value) < 0.005 else f"{value:.2f}"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=6.5, color="white" if value < DARK else "black"
            )
    axes.set_xticks(range(len(columns)), [figure_text(name) for name in columns], rotation=35, ha="right", fontsize=7)
    axes.set_yticks(range(len(names)), [figure_text(name) for name in names], fontsize=7)
    axes.set_title(figure_text(title), fontsize=9)
    axes.tick_params(length=0)


def _heading(metric: str) -> str:
    return HEADINGS.get(metric, metric.replace("_", " "))
