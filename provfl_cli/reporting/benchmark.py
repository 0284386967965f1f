"""The benchmark as a page for people, a tidy CSV and a figure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..comparison import curves
from ..comparison.benchmark import EXPLAINED, LIMITS, OF_RUN, Benchmark
from ..comparison.headings import name_of_method
from ..comparison.join import records
from ..comparison.reproduction import name_of
from ..config.schema import Experiment
from ..errors import InputError
from ..imports import later
from ..results.files import write_csv, write_text
from .figure_files import write_figure
from .joined_views import cell, figure_of
from .table import ABSENT, Table
from .tables import to_latex, to_markdown

if TYPE_CHECKING:
    import pandas as pd

    from . import benchmark_figure
else:
    benchmark_figure = later("provfl_cli.reporting.benchmark_figure")

ADDING = (
    "A method of your own gets a row: one file with a frozen dataclass that has `attribute(case)` (see "
    "`provfl_cli/attribution/data_size.py`) and one in `conf/attribution/`; then the command above with "
    "`attribution=[NAME]` (`--config-dir` where they are not in the package). What is trained already is found in the "
    "cache, retrainings too, so that a new method costs its own time alone."
)


def task_table(benchmark: Benchmark) -> Table:
    """A row a task: what it is of, what bounds its scores, or that it has not been run yet."""
    rows = []
    for task in benchmark.experiment.task_names:
        if task in benchmark.missing:
            rows.append((task, "not yet run", *[ABSENT] * len(benchmark.described)))
            continue
        own = benchmark.frame[benchmark.frame["task"] == task]
        figures = [_of_task(own, metric) for metric in benchmark.described]
        rows.append((task, str(int(own["seeds"].max())), *figures))
    words = {**OF_RUN, **{name: f"LDS of {limit}" for name, limit in LIMITS.items()}}
    headings = ("task", "seeds", *(words[name] for name in benchmark.described))
    return Table("The tasks", headings, tuple(rows))


def published_table(experiment: Experiment) -> Table | None:
    """What others reported, as they did; None where nothing is quoted."""
    reported = experiment.published
    if reported is None:
        return None
    rows = [tuple(ABSENT if value is None else str(value) for value in row) for row in reported["rows"]]
    return Table(f"Published: {reported['source']}", tuple(map(str, reported["columns"])), tuple(rows))


def metric_table(benchmark: Benchmark, metric: str) -> Table:
    """A row a method, a column a task, the best on average first."""
    frame = benchmark.of(metric)
    tasks, rows = _tasks(frame), []
    seeds = benchmark.frame.groupby("task")["seeds"].max().astype(int).to_dict()
    for method, scope in benchmark.ranked(metric):
        own = frame[(frame["method"] == method) & (frame["scope"] == scope)].rename(columns={"seeds": "count"})
        if own["mean"].isna().all():  # what is measured of some methods alone
            continue
        cells = {row["task"]: cell(row, seeds[str(row["task"])], signed=False) for row in records(own)}
        rows.append((name_of_method(method, scope), *(cells.get(task, ABSENT) for task in tasks)))
    chance = frame.groupby("task")["chance"].mean()
    if chance.notna().any():
        rows.append(("chance", *(figure_of(metric, float(chance[task])) for task in tasks)))
    return Table(name_of(metric).capitalize(), ("method", *tasks), tuple(rows))


def write_benchmark(folder: Path, benchmark: Benchmark, command: str) -> list[str]:
    """Write NAME.csv (tidy), NAME.md, NAME.tex, NAME.png and NAME.pdf; their names.

    Args:
        folder: where to.
        benchmark: what to write.
        command: what a reader types to get the same; behind it `--task NAME` runs one task alone.

    Raises:
        RunError: a file cannot be written.
    """
    name = benchmark.experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / f"{name}.csv", benchmark.frame[benchmark.frame["mean"].notna()])
    write_text(folder / f"{name}.md", "\n\n".join(_page(benchmark, command)) + "\n")
    tables = [task_table(benchmark), *(metric_table(benchmark, metric) for metric in benchmark.measured)]
    write_text(folder / f"{name}.tex", to_latex(tables, benchmark.experiment.note))
    write_figure(folder, name, benchmark_figure.drawn(benchmark))
    return [f"{name}.{end}" for end in ("md", "tex", "csv", "png", "pdf")]


def write_figure_again(folder: Path, experiment: Experiment, table: Path) -> list[str]:
    """Write NAME.png and NAME.pdf from a tidy CSV that is there; their names.

    Raises:
        InputError: it is no such table.
        RunError: a file cannot be written.
    """
    frame = curves.read(table)
    if not {"task", "scope"} <= set(frame):
        raise InputError(f"{table}: no table of tasks, it has no columns task and scope")
    folder.mkdir(parents=True, exist_ok=True)
    missing = tuple(task for task in experiment.task_names if task not in set(frame["task"]))
    write_figure(folder, experiment.name, benchmark_figure.drawn(Benchmark(experiment, frame, missing, {})))
    return [f"{experiment.name}.png", f"{experiment.name}.pdf"]


def _page(benchmark: Benchmark, command: str) -> Iterator[str]:
    experiment = benchmark.experiment
    yield f"# {experiment.name}\n\n{experiment.shows}"
    yield f"```bash\n{command}\n```"
    yield f"![{experiment.name}]({experiment.name}.png)"
    yield to_markdown([task_table(benchmark)], "").strip()
    lines = [f"- `{task}`: `{command} --task {task}`" for task in benchmark.missing]
    if lines:
        yield "Not yet run:\n\n" + "\n".join(lines)
    yield "\n".join(f"- `{task}`: {'; '.join(notes)}" for task, notes in benchmark.notes.items())
    for metric in benchmark.measured:
        explained = f"\n\n`{metric}`: {EXPLAINED[metric]}." if metric in EXPLAINED else ""
        yield to_markdown([metric_table(benchmark, metric)], "").strip() + explained
    if (published := published_table(experiment)) is not None:
        yield to_markdown([published], "").strip()
    if experiment.note:
        yield experiment.note
    yield ADDING


def _tasks(frame: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(frame["task"]))


def _of_task(own: pd.DataFrame, metric: str) -> str:
    means = own.loc[own["metric"] == metric, "mean"].dropna()
    return figure_of(metric, float(means.max())) if len(means) else ABSENT
