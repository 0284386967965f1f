"""What the figure of an experiment shows, taken from its tidy table: one curve a method, side by side in panels.

The tidy table (`NAME.csv`) has the columns of settings, then method, scope where there are several, metric, mean, low,
high, seeds and chance; figures that others published are methods that begin with "published: ".
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..bounded import read_text
from ..config.schema import Experiment
from ..errors import InputError
from ..evaluation.intervals import FEWEST_SEEDS
from ..evaluation.ranges import range_of
from ..imports import later
from .headings import LINEAGE, ROUND, name_of_method
from .join import OF_RUN, POOLED_BY, POOLED_SUMS
from .reproduction import PUBLISHED, in_order

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = later("pandas")

NUMBERS = ("mean", "low", "high", "seeds", "chance")
MOST_METRICS = 2  # that are drawn, beside the global accuracy
TIMES = ("seconds", "ms_per_input")
CROWDED = 20  # with more values on the axis intervals are bands, and marks stand on a few of them
MODEL = "global model"  # the curve of what all methods share
CLOSE = 0.005  # of the scale: curves nearer than that everywhere cannot be told apart


@dataclass(frozen=True, eq=False)
class Curve:
    """The rows of one method, under one combination of the settings that are neither axis nor panel.

    Attributes:
        method: whose.
        name: the method, with the settings that set it apart from its other curves.
        variant: number of that combination, 0 where there is one only.
        rows: settings, mean, low, high, seeds, chance; low and high are missing where there are fewer than three seeds.
    """

    method: str
    name: str
    variant: int
    rows: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Published:
    """What others reported for one panel: rows of settings and mean; a setting that they do not name is empty.

    `number` counts what is published in the whole figure.
    """

    name: str
    number: int
    rows: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Panel:
    """One metric, of one value of the facet."""

    metric: str
    facet: str | None
    curves: tuple[Curve, ...]
    published: tuple[Published, ...]


@dataclass(frozen=True)
class Picture:
    """All that is drawn: `grid[row][column]`, a row for each metric, a column for each value of the facet.

    `values` are those on the axis; `keys` the other settings, `groups` the combinations of these; `counts` says by
    metric what its rows count.
    """

    grid: tuple[tuple[Panel, ...], ...]
    values: tuple[str, ...]
    keys: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    counts: Mapping[str, Counted]

    @property
    def crowded(self) -> bool:
        """Whether the axis has too many values for marks side by side."""
        return len(self.values) > CROWDED

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Those of all rows."""
        return tuple(panel for row in self.grid for panel in row)


@dataclass(frozen=True)
class Counted:
    """Of one metric: how many inputs a mean is over, all seeds together, and of how many seeds; least and most."""

    kind: str
    inputs: tuple[int, int] | None
    seeds: tuple[int, int]


def read(path: Path) -> pd.DataFrame:
    """The tidy table of an experiment.

    Raises:
        InputError: there is no such file, or it is no such table.
    """
    try:
        frame = pd.read_csv(io.StringIO(read_text(path)), dtype=str, keep_default_na=False)
        if missing := [name for name in ("method", "metric", *NUMBERS) if name not in frame]:
            raise InputError(f"{path}: no table of an experiment, it has no column {missing[0]}")
        return frame.assign(**{name: [float(text) if text else math.nan for text in frame[name]] for name in NUMBERS})
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise InputError(f"{path}: no table of an experiment ({error})") from error


def picture(experiment: Experiment, frame: pd.DataFrame) -> Picture:
    """What is drawn of a tidy table: its first two metrics, and the global accuracy where the experiment names it.

    Raises:
        InputError: the table has not what the experiment draws.
    """
    names = list(frame.columns)
    settings = [name for name in names[: names.index("metric")] if name != "method"]
    frame = frame.assign(**{name: [_plain(value) for value in frame[name]] for name in settings})
    if not experiment.x and "scope" in settings:
        frame, settings = _scopes_as_methods(frame), [name for name in settings if name != "scope"]
    theirs = frame["method"].str.startswith(PUBLISHED)
    ours = frame[~theirs & frame["mean"].notna()]
    for name in (experiment.x, experiment.facet):
        if name is not None and name not in settings:
            raise InputError(f"{experiment.name}: the table has no column {name}, which the figure is drawn by")
    there = set(ours["metric"])
    metrics = [name for name in _drawn(experiment) if name in there]
    metrics = metrics or [name for name in experiment.metrics if name in there][:MOST_METRICS]
    if not metrics:
        raise InputError(
            f"{experiment.name}: the table has no {' or '.join(_drawn(experiment))}, which the figure shows"
        )
    ours = ours[ours["metric"].isin(metrics)]
    keys = [name for name in settings if name not in (experiment.x, experiment.facet)]
    wanted = [name_of_method(name, scope) for name in experiment.methods for scope in (ROUND, LINEAGE)]
    methods = in_order(list(dict.fromkeys(wanted)), ours["method"])
    ours = ours[ours["method"].isin(methods)]
    facets = list(dict.fromkeys(ours[experiment.facet])) if experiment.facet else [None]
    named = _named(ours, methods, keys, experiment)
    published = _published(frame[theirs], experiment)
    grid = tuple(
        tuple(_panel(metric, facet, experiment, ours, named, published, keys) for facet in facets) for metric in metrics
    )
    counts = {name: _counted(name, frame[~theirs & frame["method"].isin(methods)], settings) for name in metrics}
    values = tuple(dict.fromkeys(ours[experiment.x])) if experiment.x else ()
    return Picture(grid, in_steps(values), tuple(keys), tuple(_combinations(ours, keys)), counts)


def _scopes_as_methods(frame: pd.DataFrame) -> pd.DataFrame:
    """Both scopes of a method as two rows of one group; its line of chance stays that of the round's clients."""
    methods = [name_of_method(method, scope) for method, scope in zip(frame["method"], frame["scope"], strict=True)]
    both = frame["scope"].nunique() > 1
    chance = frame["chance"].mask(frame["scope"] == LINEAGE) if both else frame["chance"]
    return frame.assign(method=methods, chance=chance).drop(columns="scope")


def _drawn(experiment: Experiment) -> list[str]:
    first = [name for name in experiment.metrics if name not in (*OF_RUN, *POOLED_SUMS)][:MOST_METRICS]
    return [*first, *(name for name in experiment.metrics if name == "global_accuracy")]


def _plain(value: object) -> str:
    """A setting as a text, the same whichever way a number is written."""
    try:
        number = float(str(value))
    except ValueError:
        return str(value)
    return "" if math.isnan(number) else f"{number:.12g}"


def in_steps(values: Sequence[str]) -> tuple[str, ...]:
    """Numbers by size; words as they come."""
    try:
        return tuple(sorted(values, key=float))
    except ValueError:
        return tuple(values)


_Named = Mapping[tuple[str, tuple[str, ...]], tuple[str, int]]


def _named(ours: pd.DataFrame, methods: Sequence[str], keys: Sequence[str], experiment: Experiment) -> _Named:
    """The name and variant of each method under each combination of `keys`; the same curve twice has one name.

    Without an axis the combinations are rows of the figure, and no curves of their own.
    """
    if not experiment.x:
        return {(method, ()): (method, 0) for method in methods}
    combinations = _combinations(ours, keys)
    drawn: dict[str, dict[bytes, list[tuple[str, ...]]]] = {}
    for method in methods:
        for combination in combinations:
            rows = _of(ours[ours["method"] == method], keys, combination)
            if len(rows):
                same = rows.drop(columns=list(keys)).to_csv(index=False).encode()
                drawn.setdefault(method, {}).setdefault(same, []).append(combination)
    firsts = sorted({combinations.index(group[0]) for groups in drawn.values() for group in groups.values()})
    named: dict[tuple[str, tuple[str, ...]], tuple[str, int]] = {}
    for method, groups in drawn.items():
        for group in groups.values():
            shared = [
                f"{short_name(key)} {group[0][place]}"
                for place, key in enumerate(keys)
                if len({combination[place] for combination in group}) == 1
                and len({combination[place] for combination in combinations}) > 1
            ]
            name = f"{method} ({', '.join(shared)})" if shared else method
            named[method, group[0]] = name, firsts.index(combinations.index(group[0]))
    return named


def _combinations(rows: pd.DataFrame, keys: Sequence[str]) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(rows[list(keys)].itertuples(index=False, name=None))) if keys else [()]


def short_name(key: str) -> str:
    """The last part of a setting's name, as words."""
    return key.rpartition(".")[2].replace("_", " ")


def _of(rows: pd.DataFrame, keys: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    for key, value in zip(keys, values, strict=True):
        rows = rows[rows[key] == value]
    return rows


def _panel(
    metric: str,
    facet: str | None,
    experiment: Experiment,
    ours: pd.DataFrame,
    named: _Named,
    published: Sequence[tuple[str, str, pd.DataFrame]],
    keys: Sequence[str],
) -> Panel:
    here = ours[ours["metric"] == metric]
    if experiment.facet:
        here = here[here[experiment.facet] == facet]
    few = here["seeds"] < FEWEST_SEEDS
    here = here.assign(low=here["low"].mask(few), high=here["high"].mask(few))
    curves: list[Curve] = []
    for (method, values), (name, variant) in named.items():
        rows = here[here["method"] == method]
        rows = _of(rows, keys, values) if values else rows
        if metric in OF_RUN:  # the same whatever traces it, and over however many rounds
            own = [f"{short_name(key)} {value}" for key, value in zip(keys, values, strict=False) if key != "scope"]
            said = [setting for setting in own if setting in name]
            name, method = f"{MODEL} ({', '.join(said)})" if said else MODEL, MODEL
            if any(curve.name == name for curve in curves):
                continue
        if len(rows):
            curves.append(Curve(method, name, variant, rows))
    theirs = []
    for number, (name, of, rows) in enumerate(published):
        if of == metric:
            rows = rows[rows[experiment.facet].isin([facet, ""])] if experiment.facet in rows else rows
            known = _combinations(here, keys)
            there = [any(_fits(row, keys, values) for values in known) for _, row in rows.iterrows()]
            if any(there):
                name = _for_which(name, rows[there], here, keys) if experiment.x else name
                theirs.append(Published(name, number, rows[there]))
    return Panel(metric, facet, tuple(curves), tuple(theirs))


def _for_which(name: str, theirs: pd.DataFrame, ours: pd.DataFrame, keys: Sequence[str]) -> str:
    """The name of what is published, and the settings that it is for where ours is there for more."""
    said = [
        f"{short_name(key)} {theirs[key].iloc[0]}"
        for key in keys
        if ours[key].nunique() > 1 and theirs[key].nunique() == 1 and theirs[key].iloc[0]
    ]
    return f"{name} ({', '.join(said)})" if said else name


def _fits(theirs: pd.Series, keys: Sequence[str], values: Sequence[str]) -> bool:
    return all(theirs[key] in ("", value) for key, value in zip(keys, values, strict=True))


def _published(rows: pd.DataFrame, experiment: Experiment) -> list[tuple[str, str, pd.DataFrame]]:
    """Name, metric and rows of each; what is called as a metric of the run is that metric, and no other."""
    names = [(str(method), str(method).removeprefix(PUBLISHED)) for method in dict.fromkeys(rows["method"])]
    return [(name, metric_of(name, experiment), rows[rows["method"] == method]) for method, name in names]


def metric_of(published: str, experiment: Experiment) -> str:
    """The metric that published figures of this name are of: one of a run as a whole, or the experiment's first."""
    name = published.replace(" ", "_")
    return name if name in OF_RUN else experiment.metrics[0]


def _counted(metric: str, frame: pd.DataFrame, settings: Sequence[str]) -> Counted:
    own = frame[(frame["metric"] == metric) & frame["mean"].notna()]
    kind = next((inputs for start, inputs in POOLED_BY.items() if metric.startswith(start)), "inputs")
    of = frame[frame["metric"] == kind].drop_duplicates([*settings, "method"]).set_index([*settings, "method"])
    totals = (of["mean"] * of["seeds"]).reindex(pd.MultiIndex.from_frame(own[[*settings, "method"]])).dropna()
    inputs = (round(totals.min()), round(totals.max())) if len(totals) else None
    return Counted(kind, inputs, (int(own["seeds"].min()), int(own["seeds"].max())))


def is_student(panel: Panel) -> bool:
    """Whether a panel's intervals are Student's, and not Wilson's, which lean away from the ends of the scale.

    A table does not say so. On a scale of times, which has no two ends, all are Student's.
    """
    if not all(map(math.isfinite, range_of(panel.metric))):
        return True
    rows = [curve.rows.dropna(subset=["low", "high"]) for curve in panel.curves]
    return all(np.allclose(own["high"] - own["mean"], own["mean"] - own["low"], atol=1e-9) for own in rows)


@dataclass(frozen=True)
class Together:
    """Curves on one another: their names, at how many of how many points, and whether they are equal there."""

    names: tuple[str, ...]
    at: int
    of: int
    equal: bool


def coinciding(panel: Panel, x: str, least: float = 1.0, close: float = CLOSE) -> list[Together]:
    """Curves that lie on one another.

    Args:
        panel: where.
        x: the setting on the axis.
        least: at what share of the points they must.
        close: how far apart they may lie there: as a difference, of times as a part of the larger.
    """
    groups: list[list[Curve]] = []
    for curve in panel.curves:
        for group in groups:
            apart = _apart(group[0], curve, x, relative=panel.metric in TIMES)
            if len(apart) and (apart <= close).mean() >= least:
                group.append(curve)
                break
        else:
            groups.append([curve])
    found = []
    for first, *others in groups:
        if others:
            apart = np.max([_apart(first, other, x, relative=panel.metric in TIMES) for other in others], axis=0)
            near = apart <= close
            names = (first.name, *(other.name for other in others))
            found.append(Together(names, int(near.sum()), len(near), bool((apart[near] == 0).all())))
    return found


def _apart(first: Curve, other: Curve, x: str, relative: bool) -> np.ndarray:
    """How far apart two curves are at each point; empty where they are not there for the same."""
    one, two = (curve.rows.set_index(x)["mean"] for curve in (first, other))
    if set(one.index) != set(two.index):
        return np.empty(0)
    two = two.reindex(one.index)
    scale = np.maximum(one, two) if relative else 1.0
    return np.asarray((one - two).abs() / scale, dtype=float)
