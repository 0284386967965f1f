"""Runs joined into one table: grouped by the settings in which they differ, seeds averaged, chance beside metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from ..errors import InputError, did_you_mean
from ..evaluation.intervals import over_seeds
from .run_folders import IDENTITY, Absent, RunFolder
from .settings import MISSING, SEED, TRACING, asked_for, common, differing, identity, short, value
from .tables import Table
from .texts import harmless

if TYPE_CHECKING:
    from pathlib import Path

CHANCE: Mapping[str, str | float] = {  # metric: column with what chance scores, or that score itself
    "localization_accuracy": "chance_accuracy",
    "majority_accuracy": "majority_chance",
    "fault_accuracy": "fault_chance",
    "chance_corrected": 0.0,
    "spearman_counts": 0.0,
    "spearman_withhold": 0.0,
    "spearman_refuse": 0.0,
    "spearman_leave_one_out": 0.0,
}
HEADINGS = {
    "localization_accuracy": "accuracy",
    "majority_accuracy": "majority",
    "chance_corrected": "corrected",
    "fault_accuracy": "fault accuracy",
    "ndcg": "NDCG",
    "spearman_counts": "Spearman",
    "conservation_residual": "residual",
}
USUAL = ("localization_accuracy", "majority_accuracy", "spearman_counts")
OF_RUN = ("global_accuracy", "epsilon", "conservation_residual")  # stand in every row of the run
SETTINGS_ROOM = 0.6  # of a console's width
LARGEST = "conservation_residual"  # not averaged: the worst says whether all was accounted for


@dataclass(frozen=True)
class Joined:
    """A joined table.

    Attributes:
        keys: the settings that the rows are grouped by.
        words: the columns that name a row, `keys` among them.
        metrics: in the order of their columns.
        frame: one row a group, method and metric: `words`, metric, mean, low, high, count (of seeds), chance.
        sizes: number of runs, or of pairs, and of seeds by row.
        title: what it shows.
        counted: what `sizes` counts, runs or pairs.
        notes: what a reader has to know.
        absent: runs that are not in it.
    """

    keys: tuple[str, ...]
    words: tuple[str, ...]
    metrics: tuple[str, ...]
    frame: pd.DataFrame
    sizes: Mapping[tuple[str, ...], tuple[int, int]]
    title: str
    counted: str
    notes: tuple[str, ...]
    absent: tuple[Absent, ...]


@dataclass(frozen=True)
class Asked:
    """What a table is asked to show; empty: what is usual."""

    by: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    scope: str | None = None
    round: int | None = None  # None: the last that each run traced
    paired: str | None = None


def join(runs: Sequence[RunFolder], asked: Asked, absent: Sequence[Absent] = ()) -> Joined:
    """The table of `runs` that is asked for.

    Seeds are averaged with a 95% t interval over them. Where `by` leaves out settings in which runs differ, the runs
    of one seed are averaged first, so that the interval counts seeds and not runs. Of runs of the same settings and
    seed the last counts, once.

    Raises:
        InputError: an unknown setting, metric, method or scope, or no run has what was asked for.
    """
    runs, repeated = _once(runs)
    found = differing(runs)
    keys = asked_for(asked.by, runs) if asked.by else found.keys
    rows, untraced = _rows(runs, keys, asked)
    known = _metrics(rows)
    private = any(run.figures.get("privacy") is not None for run in runs)
    metrics = _chosen_metrics(asked, rows, known, private)
    notes = []
    if shared := common(runs, keys):
        notes.append(f"all runs: {shared}")
    numbers = sorted(set(rows["round"]))
    notes.append(
        f"in round {numbers[0]}" if len(numbers) == 1 else f"in each run's last traced round ({_list(numbers)})"
    )
    if averaged := [key for key in found.keys if key not in keys]:
        notes.append(f"averaged over {', '.join(averaged)} (within a seed first)")
    if found.brought and not asked.by:
        more = f" and {len(found.brought) - 5} more" if len(found.brought) > 5 else ""
        notes.append(f"the options also brought their own {', '.join(found.brought[:5])}{more} (--by shows them)")
    notes += repeated
    if asked.paired is None:
        rows = _of_methods(rows, asked.methods)
        title, counted = "Joined runs", "runs"
    else:
        metrics = tuple(name for name in metrics if name not in OF_RUN)
        rows, left_out = _paired(rows, asked, metrics, runs)
        title, counted = f"Differences to {asked.paired}, on the same federations", "pairs"
        notes += left_out
    words = _words(keys, rows)
    frame = _aggregated(rows, words, metrics, with_chance=asked.paired is None)
    sizes = {key: (group["run"].nunique(), group[SEED].nunique()) for key, group in _grouped(rows, words)}
    if any(seeds > 1 for _, seeds in sizes.values()):
        notes.append("mean ± half of the 95% t interval over seeds; (n): there in n of the seeds only")
    if asked.paired is None and LARGEST in metrics:
        notes.append("residual: the largest of any run, of its own method")
    return Joined(keys, words, metrics, frame, sizes, title, counted, tuple(notes), (*absent, *untraced))


def _once(runs: Sequence[RunFolder]) -> tuple[list[RunFolder], list[str]]:
    """Of runs that are the same the one made last, and a note; twice the same number would look like two seeds."""
    last: dict[Any, RunFolder] = {}
    for run in runs:
        key = identity(run)
        before = last.get(key)
        if before is None or _made(run.folder) >= _made(before.folder):
            last[key] = run  # keeps the place of the first
    again = len(runs) - len(last)
    note = f"{again} run{'s' * (again > 1)} of the same settings and seed as a later one: only the later counts"
    return list(last.values()), [note] if again else []


def _made(folder: Path) -> int:
    return (folder / "summary.json").stat().st_mtime_ns


def _rows(runs: Sequence[RunFolder], keys: Sequence[str], asked: Asked) -> tuple[pd.DataFrame, list[Absent]]:
    """One row for each run, method and scope of the round asked for; and the runs without any."""
    frames, absent = [], []
    for number, run in enumerate(runs):
        traced = sorted(run.scores["round"].unique())
        wanted = (traced[-1] if traced else None) if asked.round is None else asked.round
        rows = run.scores[run.scores["round"] == wanted]
        if wanted is None or rows.empty:
            listed = _list(traced) or "none"
            name = "any round" if wanted is None else f"round {wanted}"
            absent.append(Absent(str(run.folder), f"{name} was not traced (traced: {listed})"))
            continue
        of_run: dict[str, Any] = {
            name: each for name, each in run.figures.items() if name not in rows and _number(each)
        }
        of_run["epsilon"] = math.nan if (spent := run.figures.get("epsilon")) is None else spent
        of_run["global_accuracy"] = run.accuracy.get(int(wanted), math.nan)
        if wanted != run.figures.get("round"):  # what follows is known of the whole run only
            of_run |= {name: math.nan for name in ("epsilon", LARGEST) if name in of_run}
        of_run |= {"run": number, SEED: str(run.seed)} | {f"={key}": value(run, key) for key in keys}
        frames.append(rows.assign(**of_run))
    if not frames:
        raise InputError(f"--round {asked.round}: no run traced it ({absent[0].reason.partition('(')[2].rstrip(')')})")
    rows = pd.concat(frames, ignore_index=True)
    if asked.scope is not None:
        if asked.scope not in set(rows["scope"]):
            raise InputError(f"--scope {asked.scope}: no run has it, {did_you_mean(asked.scope, rows['scope'])}")
        absent += _without(rows, rows["scope"] == asked.scope, runs, f"not traced in scope {asked.scope}")
        rows = rows[rows["scope"] == asked.scope]
    for name in (*asked.methods, *([asked.paired] if asked.paired else [])):
        if name not in set(rows["method"]):
            raise InputError(f"{name}: no run has this method, {did_you_mean(name, rows['method'])}")
    if asked.methods:
        absent += _without(rows, rows["method"].isin(asked.methods), runs, f"no {' or '.join(asked.methods)}")
    return rows, absent


def _without(rows: pd.DataFrame, kept: pd.Series, runs: Sequence[RunFolder], reason: str) -> list[Absent]:
    left = sorted(set(rows["run"]) - set(rows.loc[kept, "run"]))
    return [Absent(str(runs[number].folder), reason) for number in left]


def _of_methods(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    return rows[rows["method"].isin(methods)] if methods else rows


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _metrics(rows: pd.DataFrame) -> list[str]:
    own = {*IDENTITY, "run", SEED}
    names = [str(name) for name in rows if name not in own and not str(name).startswith("=")]
    return [name for name in names if pd.api.types.is_numeric_dtype(rows[name])]


def _chosen_metrics(asked: Asked, rows: pd.DataFrame, known: Sequence[str], private: bool) -> tuple[str, ...]:
    for name in asked.metrics:
        if name not in known:
            raise InputError(f"--metric {name}: no such metric, {did_you_mean(name, known, limit=40)}")
    faults = ["fault_accuracy"] if "fault_inputs" in known and (rows["fault_inputs"] > 0).any() else []
    of_run = [name for name in OF_RUN if name in known and (name != "epsilon" or private)]
    usual = [*(name for name in USUAL if name in known), *faults]
    return tuple(dict.fromkeys([*(asked.metrics or usual), *of_run]))


def _words(keys: Sequence[str], rows: pd.DataFrame) -> tuple[str, ...]:
    """The columns that name a row: the scope where there are several, the target where a run has several."""
    words = [*(f"={key}" for key in keys), "method"]
    if rows["scope"].nunique() > 1:
        words.append("scope")
    if (rows.groupby(["run", "method", "scope"])["target"].nunique() > 1).any():
        words.append("target")
    return tuple(words)


def _aggregated(rows: pd.DataFrame, words: Sequence[str], metrics: Sequence[str], with_chance: bool) -> pd.DataFrame:
    """Means and intervals over seeds, of the means within each seed."""
    chances = {name: _chance(name, rows) for name in metrics if with_chance}
    columns = list(dict.fromkeys([*metrics, *(each for each in chances.values() if isinstance(each, str))]))
    by_seed = rows.groupby([*words, SEED], sort=False)[columns].mean().reset_index()
    frame = over_seeds(by_seed, words, metrics)
    by_row = {key: group[columns].mean() for key, group in _grouped(by_seed, words)}
    largest = {key: group[LARGEST].max() for key, group in _grouped(rows, words)} if LARGEST in metrics else {}
    records = []
    for row in _records(frame):
        key, chance = tuple(row[word] for word in words), chances.get(row["metric"])
        row["chance"] = by_row[key][chance] if isinstance(chance, str) else math.nan if chance is None else chance
        if row["metric"] == LARGEST:
            row |= {"mean": largest[key], "low": math.nan, "high": math.nan}
        records.append(row)
    return pd.DataFrame(records, columns=[*frame.columns, "chance"])


def _grouped(frame: pd.DataFrame, words: Sequence[str]) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """The rows of each combination of words, in the order in which they come."""
    for key, group in frame.groupby(list(words), sort=False):
        yield tuple(map(str, key)), group


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", frame.to_dict("records"))


def _chance(metric: str, rows: pd.DataFrame) -> str | float | None:
    """The column of what chance scores, that score, or None for what is no score."""
    chance = CHANCE.get(metric, f"{metric}_chance")
    if isinstance(chance, str):
        return chance if chance in rows else 0.0 if metric.startswith("spearman_") else None
    return chance


def _paired(
    rows: pd.DataFrame, asked: Asked, metrics: Sequence[str], runs: Sequence[RunFolder]
) -> tuple[pd.DataFrame, list[str]]:
    """Each other method minus the one asked for, on the same run or else on a run that traced the same federation."""
    federations = {number: identity(run, without=TRACING) for number, run in enumerate(runs)}
    base, others = (
        rows[rows["method"] == asked.paired],
        _of_methods(rows[rows["method"] != asked.paired], asked.methods),
    )
    if others.empty:
        raise InputError(f"--paired {asked.paired}: there is no other method to compare it with")
    differences, alone = [], 0
    for _, other in others.iterrows():
        same = base[(base["scope"] == other["scope"]) & (base["round"] == other["round"])]
        own = same[same["run"] == other["run"]]
        if own.empty:
            own = same[[federations[run] == federations[other["run"]] for run in same["run"]]]
        if len(own) != 1:
            alone += 1
            continue
        differences.append({**other, **{name: other[name] - own.iloc[0][name] for name in metrics}})
    if not differences:
        raise InputError(f"--paired {asked.paired}: no other method was traced on the same federation, once each")
    note = f"{alone} of {len(others)} traces have no one trace by {asked.paired} to be compared with"
    frame = pd.DataFrame(differences, columns=rows.columns).astype(dict.fromkeys(metrics, float))
    return frame, [note] if alone else []


# How it is shown


def wide(joined: Joined) -> Table:
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
    for key, group in _grouped(joined.frame, joined.words):
        runs, seeds = joined.sizes[key]
        cells = [*key, *(map(str, (seeds, runs)) if several else [str(runs)])]
        for row in _records(group):
            cells.append(_cell(row, seeds, signed=joined.counted == "pairs"))
            if row["metric"] in shown:
                cells.append(_figure(row["metric"], row["chance"]))
        rows.append(tuple(cells))
    return Table(joined.title, tuple(headings), tuple(rows), len(names))


def _with_chance(joined: Joined) -> set[str]:
    return set(joined.frame.loc[joined.frame["chance"].notna(), "metric"])


def _cell(row: Mapping[str, Any], seeds: int, signed: bool) -> str:
    text = _figure(row["metric"], row["mean"], signed)
    if not math.isnan(row["low"]):
        text += f" ± {_figure(row['metric'], row['high'] - row['mean'])}"
    return f"{text} ({row['count']})" if 0 < row["count"] < seeds else text


def _figure(metric: str, number: float, signed: bool = False) -> str:
    if math.isnan(number):
        return MISSING
    sign = "+" if signed else ""
    if math.isinf(number):
        return f"{number:{sign}}"
    if metric == LARGEST:
        return f"{number:{sign}.1e}"
    if metric in ("epsilon", "delta"):
        return f"{number:{sign}.4g}"
    if abs(number) >= 2 and float(number).is_integer():
        return f"{number:{sign},.0f}"
    return f"{number:{sign},.3f}" if abs(number) < 100 else f"{number:{sign},.1f}"


def wide_csv(joined: Joined) -> pd.DataFrame:
    """The same rows as numbers, with the bounds of the interval where there is one anywhere."""
    shown, several = _with_chance(joined), joined.frame["low"].notna()
    bounded = set(joined.frame.loc[several, "metric"])
    rows = []
    for key, group in _grouped(joined.frame, joined.words):
        runs, seeds = joined.sizes[key]
        row: dict[str, Any] = dict(zip(_plain(joined.words), key, strict=True)) | {"seeds": seeds, joined.counted: runs}
        for one in _records(group):
            name = one["metric"]
            row[name] = one["mean"]
            if name in bounded:
                row |= {f"{name}_low": one["low"], f"{name}_high": one["high"]}
            if name in shown:
                chance = CHANCE.get(name)
                row[chance if isinstance(chance, str) else f"{name}_chance"] = one["chance"]
        rows.append(row)
    return pd.DataFrame(rows)


def tidy_csv(joined: Joined) -> pd.DataFrame:
    """One row for each group, method and metric."""
    frame = joined.frame.rename(columns={"count": "seeds"})
    return frame.rename(columns=dict(zip(joined.words, _plain(joined.words), strict=True)))


def _plain(words: Sequence[str]) -> list[str]:
    return [word.removeprefix("=") for word in words]


def below(joined: Joined) -> list[str]:
    """What stands below the table: notes, then the runs that are not in it."""
    lines = list(joined.notes)
    if joined.absent:
        lines.append(f"not in the table: {len(joined.absent)} run{'s' * (len(joined.absent) > 1)}")
        lines += [f"  {each.name}: {each.reason}" for each in joined.absent]
    return lines


@dataclass(frozen=True)
class Shown:
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
        widths = [max(map(cell_len, [*column, *head.split()])) + 2 for head, column in zip(heads, cells, strict=True)]
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
    left = room + 2 - sum(widths[column] for column in words)  # no padding behind the last
    blocks: list[list[int]] = [[]]
    for unit in units:
        if blocks[-1] and sum(widths[column] for column in [*blocks[-1], *unit]) > left:
            blocks.append([])
        blocks[-1] += unit
    return [[*words, *block] for block in blocks]


def _padded(cells: list[str]) -> list[str]:
    """Numbers with and without an interval, one below the other by their last digit."""
    heads, tails = zip(
        *((head, sign + tail) for head, sign, tail in (cell.partition(" ±") for cell in cells)), strict=True
    )
    width = max(map(cell_len, tails))
    return [head + tail + " " * (width - cell_len(tail)) for head, tail in zip(heads, tails, strict=True)]
