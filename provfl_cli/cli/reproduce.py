"""`provfl reproduce [NAME] [--scale SCALE]`: the tables and figures of the paper, and more, each by one command.

An experiment is a sweep in `conf/experiment/NAME.yaml` whose `experiment` block says what its runs show.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich import box
from rich.table import Table

from ..config.extras import installed, of_experiment, way_to
from ..config.flags import no_such_flag
from ..config.tree import conf_dir
from ..errors import InputError, RunError, did_you_mean
from ..imports import later
from ..reporting.terminal import make_console
from ..store.disk import replacing
from .arguments import check_out, parser
from .saying import complain, say
from .table import read_places, write_experiment

if TYPE_CHECKING:
    from ..reporting import benchmark, experiment_tables
    from . import run, tasks
else:  # Hydra comes with it, pandas with the tables
    benchmark = later("provfl_cli.reporting.benchmark")
    experiment_tables = later("provfl_cli.reporting.experiment_tables")
    run = later("provfl_cli.cli.run")
    tasks = later("provfl_cli.cli.tasks")

SCALES = ("smoke", "small", "paper")
ALL = "all"


@dataclass(frozen=True)
class ListedExperiment:
    """An experiment as the list shows it."""

    name: str
    shows: str
    minutes: float
    extras: tuple[str, ...]  # what it needs beside the package
    tasks: bool = False  # whether it is several sweeps
    drawn: bool = True  # whether it has a figure


def main(arguments: list[str]) -> int:
    """List the experiments, run one of them, or all."""
    own = _parser()
    if any(argument in ("-h", "--help") for argument in arguments):
        own.print_help()
        return 0
    args, overrides = own.parse_known_args(arguments)
    for flag in (argument for argument in overrides if argument.startswith("-")):
        flags = ["--scale", "--task", "--out", "--runs", "--from", "--help"]
        raise InputError(f"{no_such_flag(flag, flags)} (provfl reproduce --help)")
    known = {experiment.name: experiment for experiment in experiments()}
    if args.name is None:
        _list(list(known.values()))
        return 0
    if args.scale not in SCALES:
        raise InputError(f"--scale {args.scale}: {did_you_mean(args.scale, SCALES)}")
    if args.name != ALL and args.name not in known:
        raise InputError(f"{args.name}: no such experiment, {did_you_mean(args.name, [*known, ALL])}")
    if args.out is not None:
        check_out(Path(args.out), folder=True)
    if args.task is not None and (args.runs or args.table or args.name == ALL or not known[args.name].tasks):
        several = [experiment.name for experiment in known.values() if experiment.tasks]
        raise InputError(f"--task {args.task}: goes with an experiment of several tasks ({', '.join(several)})")
    for override in overrides:
        if override.lstrip("+").startswith(("hydra.sweep.", "hydra.run.")):
            raise InputError(
                f"{override}: provfl reproduce keeps its runs in outputs/reproduce/, --out DIR puts tables and figure "
                "elsewhere; or provfl run experiment=NAME hydra.sweep.dir=DIR"
            )
    if args.runs and args.table:
        raise InputError("--runs makes tables and figure of runs, --from the figure of a table: one of them")
    if (args.runs or args.table) and overrides:
        kept = "--runs" if args.runs else "--from"
        raise InputError(f"{overrides[0]}: {kept} shows what is there and runs nothing, leave it out")
    if args.runs:
        return _again(args, known)
    if args.table:
        return _drawn_again([args.name] if args.name != ALL else list(known), args, known)
    if args.name != ALL:
        return _one(known[args.name], args.scale, args.out, overrides, args.task)
    return _all(list(known.values()), args.scale, args.out, overrides)


def experiments() -> list[ListedExperiment]:
    """All experiments that a sweep stands for, in alphabetical order."""
    listed = []
    for path in sorted((conf_dir() / "experiment").glob("*.yaml"), key=lambda path: path.stem):
        block = yaml.safe_load(path.read_text(encoding="utf-8")).get("experiment")
        if block is not None:
            needed, tasks = of_experiment(path.stem), "tasks" in block
            drawn = "page" not in block
            listed.append(ListedExperiment(path.stem, block["shows"], block["minutes"], needed, tasks, drawn))
    return listed


def _parser() -> ArgumentParser:
    made = parser(
        "reproduce",
        usage="provfl reproduce [NAME | all] [--scale smoke|small|paper] [--task TASK] [--out DIR] "
        "[--runs RUNS… | --from CSV] [KEY=VALUE ...]",
        description="Runs an experiment and writes its tables and figure; without a name: lists the experiments.",
        epilog="What is trained already is found in the cache, so that an interrupted experiment goes on where it was.",
    )
    made.add_argument("name", nargs="?", metavar="NAME", help="an experiment, or all")
    made.add_argument(
        "--scale", default="small", help="smoke: seconds | small: minutes (default) | paper: a GPU cluster"
    )
    made.add_argument("--task", metavar="TASK", help="one task alone, of an experiment that has several (benchmark)")
    made.add_argument("--out", metavar="DIR", help="tables and figure go there; default: the sweep's folder")
    made.add_argument("--runs", nargs="+", metavar="RUNS", help="run nothing: tables and figure of runs already made")
    made.add_argument(
        "--from",
        dest="table",
        metavar="CSV",
        help="run nothing: the figure again from NAME.csv, or from the folder it lies in, where --out puts it else",
    )
    return made


def _list(known: list[ListedExperiment]) -> None:
    caption = "minutes: --scale small on two cores, about; an extra marked * is not installed"
    table = Table("experiment", "shows", "extra", box=box.SIMPLE_HEAD, caption=caption)
    table.add_column("minutes", justify="right")
    for experiment in known:
        marked = ", ".join(extra if installed(extra) else f"{extra} *" for extra in experiment.extras)
        table.add_row(experiment.name, experiment.shows, marked, f"{experiment.minutes:g}")
    make_console(width=None if sys.stdout.isatty() else 160).print(table)


def _one(
    experiment: ListedExperiment, scale: str, out: str | None, overrides: list[str], task: str | None = None
) -> int:
    """The sweep of one experiment, as `provfl run experiment=NAME` does it, in a folder of its own; or its tasks."""
    name = experiment.name
    option = _option(name, scale)
    if not (conf_dir() / "experiment" / f"{option}.yaml").is_file():
        raise InputError(f"{name} has no scale {scale}: conf/experiment/{option}.yaml is not there")
    folder = Path("outputs") / "reproduce" / name / scale
    if experiment.tasks:
        return tasks.run_tasks(option, folder, Path(out or folder), task, overrides)
    before = _written(folder / f"{name}.csv")
    code = run.main([f"experiment={option}", f"hydra.sweep.dir='{folder}'", *overrides])
    if _written(folder / f"{name}.csv") == before:  # what is there is of an earlier sweep
        for file in experiment_tables.files_of(name):
            (folder / file).unlink(missing_ok=True)
    elif out is not None:
        _copied(folder, Path(out), name)
    return code


def _written(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.is_file() else None


def _all(known: list[ListedExperiment], scale: str, out: str | None, overrides: list[str]) -> int:
    """One experiment after the other; those whose extra is not installed are left out, with a line each."""
    codes = {}
    for experiment in known:
        missing = [extra for extra in experiment.extras if not installed(extra)]
        if missing:
            say(f"experiment {experiment.name}: left out, it needs an extra: {way_to(missing[0])}")
        else:
            codes[experiment.name] = _whatever_comes(experiment, scale, out, overrides)
    failed = [name for name, code in codes.items() if code]
    say(f"{len(codes) - len(failed)} of {len(codes)} experiments done")
    if failed:
        complain(f"failed: {', '.join(failed)}")
    return max(codes.values(), key=lambda code: code == 1, default=0)


def _option(name: str, scale: str) -> str:
    """What `experiment=` takes for it."""
    return name if scale == "small" else f"{name}/{scale}"


def _whatever_comes(experiment: ListedExperiment, scale: str, out: str | None, overrides: list[str]) -> int:
    """One of many: what is wrong with it is said, and the others go on."""
    say(f"experiment {experiment.name}, {scale}")
    try:
        return _one(experiment, scale, out, overrides)
    except (InputError, RunError) as error:
        complain(f"{experiment.name}: {error}")
        return 2 if isinstance(error, InputError) else 1


def _copied(folder: Path, out: Path, name: str) -> None:
    """The tables and the figure again in `out`, whole or not at all."""
    for file in experiment_tables.files_of(name):
        with replacing(out / file) as beside:
            beside.write_bytes((folder / file).read_bytes())
    say(f"{name}.md, .tex, .csv, .png, .pdf in {os.path.relpath(out)}/")


def _again(args: Namespace, known: Mapping[str, ListedExperiment]) -> int:
    """Tables and figure of runs that are there."""
    if args.name == ALL:
        raise InputError("--runs goes with one experiment")
    option = _option(args.name, args.scale)
    out = Path(args.out or args.runs[0])
    try:
        if known[args.name].tasks:
            if len(args.runs) > 1:
                raise InputError(f"--runs: of {args.name} give one folder, in which each task has a folder of its own")
            written = tasks.write_tasks(Path(args.runs[0]), out, tasks.experiment_of(option), option)
        else:
            runs, absent = read_places([Path(place) for place in args.runs])
            written = write_experiment(out, tasks.experiment_of(option), runs, absent, option)
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror})") from error
    say(written)
    return 0


def _drawn_again(names: list[str], args: Namespace, known: Mapping[str, ListedExperiment]) -> int:
    """The figures of tables that are there: of all in a folder, those that it has."""
    place = Path(args.table)
    if args.name == ALL and not place.is_dir():
        raise InputError(f"--from {place}: all figures are drawn from a folder with their tables")
    tables = {name: place / f"{name}.csv" if place.is_dir() else place for name in names}
    if args.name == ALL:
        tables = {name: table for name, table in tables.items() if table.is_file() and known[name].drawn}
    elif not known[args.name].drawn:
        raise InputError(f"{args.name} has no figure: --runs makes its tables again")
    if not tables:
        raise InputError(f"--from {place}: holds no table of an experiment, such as {names[0]}.csv")
    failed = []
    for name, table in tables.items():
        out = Path(args.out or table.parent)
        draw = (benchmark if known[name].tasks else experiment_tables).write_figure_again
        try:
            written = draw(out, tasks.experiment_of(_option(name, args.scale)), table)
        except OSError as error:
            raise RunError(f"{out}: cannot be written ({error.strerror})") from error
        except InputError as error:
            if args.name != ALL:
                raise
            complain(f"{name}: {error}")
            failed.append(name)
        else:
            say(f"{', '.join(written)} in {os.path.relpath(out)}/")
    if failed:
        complain(f"failed: {', '.join(failed)}")
    return 2 if failed else 0
