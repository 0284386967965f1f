"""Runs joined into one table: grouped by the settings in which they differ, seeds averaged, chance beside metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..coverage import coverage_warning
from ..errors import InputError, did_you_mean
from ..evaluation.backdoor import looked_for
from ..evaluation.intervals import over_seeds
from ..evaluation.ranges import counted_things, cut, inputs_of, range_of
from ..imports import later
from ..results.folders import IDENTITY, MissingRun, RunFolder
from .backdoors import without_effect
from .chances import chance_of
from .settings import SEED, TRACING, asked_for, common, differing, federations, identity, value

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = later("pandas")

USUAL = ("lds", "spearman_retrain", "caused_accuracy", "majority_accuracy", "spearman_counts")
SATURATES = "localization_accuracy"  # stands last: nearly every method scores 1
MEANINGLESS = "no meaningful guarantee"  # in what is told of a run's epsilon that promises nothing
OF_RUN = ("global_accuracy", "epsilon", "conservation_residual")  # stand in every row of the run
LARGEST = "conservation_residual"  # not averaged: the worst says whether all was accounted for
SECONDS = "seconds_"  # how the keys of summary.json begin that say how long each method took
POOLED_SUMS = (
    "inputs", "no_holder", "fault_inputs", "corrected_inputs", "exclusive_inputs", "blamed_inputs", "caused_inputs",
    "said_inputs", "astray_inputs", "unsaid_inputs", "tokens", "span_tokens", "rest_tokens",
)  # fmt: skip
POOLED_BY = {  # what other inputs than all those traced weigh, by the beginning of the metric's name
    "fault_share": "inputs",
    "fault": "fault_inputs",
    "hit@": "fault_inputs",
    "corrected": "corrected_inputs",
    "exclusive": "exclusive_inputs",
    "caused": "caused_inputs",
    "blamed": "blamed_inputs",
    "stated": "blamed_inputs",
    "owner": "said_inputs",
    "other_share": "said_inputs",
    "astray": "astray_inputs",
    "token": "tokens",
    "span": "span_tokens",
    "rest": "rest_tokens",
}


@dataclass(frozen=True)
class JoinedRuns:
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
    absent: tuple[MissingRun, ...]


@dataclass(frozen=True)
class TableQuery:
    """What a table is asked to show; empty: what is usual."""

    by: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    scope: str | None = None
    round: int | str = "last"  # last (that each run traced) | a number | each | pooled: all, weighted by inputs
    paired: str | None = None


def _incomplete(runs: Sequence[RunFolder]) -> list[str]:
    """A warning where traces of some runs do not account for all parameters; the one that leaves out most is named."""
    covered = [float(share) for run in runs if isinstance(share := run.figures.get("covered"), int | float)]
    if min(covered, default=1.0) >= 1:
        return []
    some = sum(share < 1 for share in covered)
    return [f"warning: {some} of {len(runs)} runs; in the worst {coverage_warning(min(covered), ())}"]


def join(runs: Sequence[RunFolder], asked: TableQuery, absent: Sequence[MissingRun] = ()) -> JoinedRuns:
    """The table of `runs` that is asked for.

    Seeds are averaged with a 95% interval, from three seeds on (`evaluation/intervals.py`). Where `by` leaves out
    settings in which runs differ, the runs of one seed are averaged first, so that the interval counts seeds and not
    runs. Of runs of the same settings and seed the last counts, once.

    Raises:
        InputError: an unknown setting, metric, method or scope, or no run has what was asked for.
    """
    runs, repeated = _once(runs)
    differences = differing(runs)
    keys = asked_for(asked.by, runs) if asked.by else differences.keys
    rows, untraced = _rows(runs, keys, asked)
    known = _metrics(rows)
    private = any(run.figures.get("privacy") is not None for run in runs)
    metrics = _chosen_metrics(asked, rows, known, private)
    notes = _incomplete(runs)
    if any(map(looked_for, metrics)):
        notes += without_effect(rows, keys)
    if shared := common(runs, keys):
        notes.append(f"all runs: {shared}")
    if size := federations(runs, keys):
        notes.append(size)
    notes.append(_which_rounds(rows, asked))
    if averaged := [key for key in differences.keys if key not in keys]:
        notes.append(f"averaged over {', '.join(averaged)} (within a seed first)")
    if differences.brought and not asked.by:
        more = f" and {len(differences.brought) - 5} more" if len(differences.brought) > 5 else ""
        notes.append(f"the options also brought their own {', '.join(differences.brought[:5])}{more} (--by shows them)")
    notes += repeated
    if asked.paired is None:
        rows = _of_methods(rows, asked.methods)
        title, counted = "Joined runs", "runs"
    else:
        metrics = tuple(name for name in metrics if name not in OF_RUN)
        rows, left_out = _paired(rows, asked, metrics, runs)
        title, counted = f"Differences to {asked.paired}, on the same federations", "pairs"
        notes += left_out
    if "epsilon" in metrics:
        notes.append(_epsilons(runs))
    words = _words(keys, rows, asked.round == "each")
    frame = _aggregated(rows, words, metrics, with_chance=asked.paired is None)
    sizes = {key: (group["run"].nunique(), group[SEED].nunique()) for key, group in grouped(rows, words)}
    if any(seeds > 1 for _, seeds in sizes.values()):
        notes.append("mean over seeds [95% interval, from three seeds on]; (n): there in n of the seeds only")
    if asked.paired is None and LARGEST in metrics:
        notes.append("residual: the largest of any run, of its own method")
    return JoinedRuns(keys, words, metrics, frame, sizes, title, counted, tuple(notes), (*absent, *untraced))


def _epsilons(runs: Sequence[RunFolder]) -> str:
    """At which delta epsilon holds, for whom, and in how many runs it promises nothing."""
    figures = [run.figures for run in runs if run.figures.get("privacy") is not None]
    deltas = sorted(float(delta) for each in figures if isinstance(delta := each.get("delta"), int | float))
    at = (
        "" if not deltas else f" at delta {deltas[0]:.2g}" + (f" to {deltas[-1]:.2g}" if deltas[0] < deltas[-1] else "")
    )
    empty = sum(MEANINGLESS in str(each["privacy"]) for each in figures)
    verdict = f"; no meaningful guarantee in {empty} of {len(figures)} runs" if empty else ""
    return f"epsilon{at}: for a client with all its data{verdict}"


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


def _rows(runs: Sequence[RunFolder], keys: Sequence[str], asked: TableQuery) -> tuple[pd.DataFrame, list[MissingRun]]:
    """One row for each run, method and scope of the round asked for; and the runs without any."""
    frames, absent = [], []
    for number, run in enumerate(runs):
        traced = sorted(run.scores["round"].unique())
        wanted = _wanted(traced, asked.round)
        rows = run.scores[run.scores["round"].isin(wanted)]
        if rows.empty:
            listed = _list(traced) or "none"
            name = f"round {asked.round}" if isinstance(asked.round, int) else "any round"
            absent.append(MissingRun(str(run.folder), f"{name} was not traced (traced: {listed})"))
            continue
        pooled = asked.round == "pooled" and len(wanted) > 1
        frames.append(_with_run(_pooled(rows) if pooled else rows, run, number, keys, pooled))
    if not frames:
        which = absent[0].reason.partition("(")[2].rstrip(")")
        raise InputError(f"--round {asked.round}: no run traced it ({which})")
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


def _wanted(traced: Sequence[int], asked: int | str) -> list[int]:
    """The rounds that are looked at, of those that were traced."""
    if isinstance(asked, int):
        return [asked]
    return list(traced[-1:] if asked == "last" else traced)


def _with_run(rows: pd.DataFrame, run: RunFolder, number: int, keys: Sequence[str], pooled: bool) -> pd.DataFrame:
    """The rows of a run, with what is known of the run as a whole, and of each method's time, in every one of them.

    What a method took is known of the last round only, so not of `pooled` ones.
    """
    of_run: dict[str, Any] = {
        name: figure
        for name, figure in run.figures.items()
        if name not in rows and _number(figure) and not name.startswith(SECONDS)
    }
    of_run["epsilon"] = math.nan if (spent := run.figures.get("epsilon")) is None else spent
    of_run["global_accuracy"] = [run.accuracy.get(int(at), math.nan) for at in rows["round"]]
    last = rows["round"] == run.figures.get("round")
    timed = last & (rows["scope"] == "round") & (not pooled)
    seconds = [run.figures.get(f"{SECONDS}{name}", math.nan) for name in rows["method"]]
    of_run["seconds"] = pd.Series(seconds, index=rows.index, dtype=float).where(timed)
    of_run["ms_per_input"] = 1000 * of_run["seconds"] / rows["inputs"].where(rows["inputs"] > 0)
    if not rows["round"].isin([run.figures.get("round")]).all():  # what follows is known of the whole run only
        of_run |= {name: math.nan for name in ("epsilon", LARGEST) if name in of_run}
    of_run |= {"run": number, SEED: str(run.seed)} | {f"={key}": value(run, key) for key in keys}
    return rows.assign(**of_run)


def _pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a trace method for all its rounds: inputs added up, metrics weighted by the inputs that they are of."""
    by = ["method", "scope", "target"]
    metrics = [str(name) for name in rows if name not in IDENTITY]
    pooled = []
    for key, group in rows.groupby(by, sort=False):
        row: dict[str, Any] = dict(zip(by, key, strict=True)) | {"round": group["round"].max()}
        for name in metrics:
            if name in POOLED_SUMS:
                row[name] = group[name].sum(min_count=1)
                continue
            weight = group[next((inputs for start, inputs in POOLED_BY.items() if name.startswith(start)), "inputs")]
            there = group[name].notna() & (weight > 0)
            total = (group[name] * weight)[there].sum()
            row[name] = total / weight[there].sum() if there.any() else math.nan
        pooled.append(row)
    return pd.DataFrame(pooled, columns=rows.columns)


def _which_rounds(rows: pd.DataFrame, asked: TableQuery) -> str:
    numbers = sorted(set(rows["round"]))
    if asked.round == "each":
        return f"rounds {_list(numbers)}"
    if asked.round == "pooled":
        return f"all traced rounds together, the last of them {_list(numbers)}; each prediction counts once"
    return f"in round {numbers[0]}" if len(numbers) == 1 else f"in each run's last traced round ({_list(numbers)})"


def _without(rows: pd.DataFrame, kept: pd.Series, runs: Sequence[RunFolder], reason: str) -> list[MissingRun]:
    left = sorted(set(rows["run"]) - set(rows.loc[kept, "run"]))
    return [MissingRun(str(runs[number].folder), reason) for number in left]


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


def _chosen_metrics(asked: TableQuery, rows: pd.DataFrame, known: Sequence[str], private: bool) -> tuple[str, ...]:
    for name in asked.metrics:
        if name not in known:
            raise InputError(f"--metric {name}: no such metric, {did_you_mean(name, known, limit=40)}")
    faults = ["fault_accuracy"] if "fault_inputs" in known and (rows["fault_inputs"] > 0).any() else []
    of_run = [name for name in OF_RUN if name in known and (name != "epsilon" or private)]
    usual = [name for name in USUAL if name in known and rows[name].notna().any()]
    usual += [*faults, *([SATURATES] if SATURATES in known else [])]
    return tuple(dict.fromkeys([*(asked.metrics or usual), *of_run]))


def _words(keys: Sequence[str], rows: pd.DataFrame, by_round: bool) -> tuple[str, ...]:
    """The columns that name a row: the scope where there are several, the target where a run has several."""
    words = [*(f"={key}" for key in keys), *(["round"] if by_round else []), "method"]
    if rows["scope"].nunique() > 1:
        words.append("scope")
    if (rows.groupby(["run", "method", "scope"])["target"].nunique() > 1).any():
        words.append("target")
    return tuple(words)


def _aggregated(rows: pd.DataFrame, words: Sequence[str], metrics: Sequence[str], with_chance: bool) -> pd.DataFrame:
    """Means and intervals over seeds, of the means within each seed."""
    chances = {name: chance_of(name, rows) for name in metrics if with_chance}
    counted = {name: column for name in metrics if with_chance and (column := inputs_of(name)) and column in rows}
    others = [*(column for column in chances.values() if isinstance(column, str)), *counted.values()]
    columns = list(dict.fromkeys([*metrics, *others]))
    by_seed = rows.groupby([*words, SEED], sort=False)[columns].mean().reset_index()
    ranges = {name: range_of(name) for name in metrics} if with_chance else {}
    frame = over_seeds(by_seed, words, metrics, ranges, counted)
    by_row = {key: group[columns].mean() for key, group in grouped(by_seed, words)}
    largest = {key: group[LARGEST].max() for key, group in grouped(rows, words)} if LARGEST in metrics else {}
    aggregated = []
    for row in records(frame):
        key, chance = tuple(str(row[word]) for word in words), chances.get(row["metric"])
        row["chance"] = by_row[key][chance] if isinstance(chance, str) else math.nan if chance is None else chance
        if not with_chance:
            row["low"], row["high"] = cut(row["metric"], row["low"], row["high"], difference=True)
        if counted_things(row["metric"]):
            row["low"], row["high"] = math.nan, math.nan
        if row["metric"] == LARGEST:
            row |= {"mean": largest[key], "low": math.nan, "high": math.nan}
        aggregated.append(row)
    return pd.DataFrame(aggregated, columns=[*frame.columns, "chance"])


def grouped(frame: pd.DataFrame, words: Sequence[str]) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """The rows of each combination of words, in the order in which they come."""
    for key, group in frame.groupby(list(words), sort=False):
        yield tuple(map(str, key)), group


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", frame.to_dict("records"))


def _paired(
    rows: pd.DataFrame, asked: TableQuery, metrics: Sequence[str], runs: Sequence[RunFolder]
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


def plain(words: Sequence[str]) -> list[str]:
    """The words that name a row, as headings."""
    return [word.removeprefix("=") for word in words]
