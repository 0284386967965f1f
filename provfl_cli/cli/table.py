"""`provfl table RUNS…`: any runs and sweeps in one table."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from ..checks import excerpt
from ..errors import InputError, RunError, did_you_mean
from ..imports import later
from ..reporting.tables import to_latex, to_markdown
from ..reporting.terminal import make_console
from ..run.place import no_run
from ..store.recorded import is_recorded
from .arguments import check_out, listed, parser, read, whole
from .folder import named
from .next_step import say_next_of_sweep
from .saying import complain, say

if TYPE_CHECKING:
    from ..comparison import join, reproduction
    from ..config.schema import Experiment
    from ..reporting import console, experiment_tables, joined_views
    from ..results import files, folders
    from ..results.folders import MissingRun, RunFolder
    from . import recorded
    from .job import Failure
else:  # pandas comes with most of them, numpy and Hydra with the others
    join, reproduction = later("provfl_cli.comparison.join"), later("provfl_cli.comparison.reproduction")
    console, joined_views = later("provfl_cli.reporting.console"), later("provfl_cli.reporting.joined_views")
    experiment_tables = later("provfl_cli.reporting.experiment_tables")
    files, folders = later("provfl_cli.results.files"), later("provfl_cli.results.folders")
    recorded = later("provfl_cli.cli.recorded")

FORMATS = {"console": ".txt", "csv": ".csv", "markdown": ".md", "latex": ".tex"}
SCOPES = ("round", "lineage")
NOT_MEASURED = "is a recorded federation, of which nothing was measured (provfl ls FOLDER)"


def main(arguments: list[str]) -> int:
    """Join runs, and show or write the table."""
    args = read(_parser(), arguments)
    if args is None:
        return 0
    chosen, number = _format(args), _round(args.round)
    by, metrics, methods = (listed(f"--{name}", getattr(args, name)) for name in ("by", "metric", "method"))
    places = [named(place) for place in args.runs]
    if args.out is None and all(is_recorded(place) for place in places):  # nothing was measured: what there is
        for place in places:
            recorded.show_recording(place)
        return 0
    runs, absent = read_places(places)
    query = join.TableQuery(by, metrics, methods, args.scope, number, args.paired)
    joined = join.join(runs, query, absent)
    if args.out is not None:
        _written(joined, Path(args.out), chosen, args.tidy)
    else:
        _shown(joined, chosen, args.tidy)
    return 0


def _parser() -> ArgumentParser:
    made = parser(
        "table",
        {"RUNS": "RUNS come first: provfl table outputs/multirun/DATE/TIME --by fusion"},
        description="Joins runs into one table, grouped by the settings in which they differ; seeds are averaged.",
    )
    made.add_argument("runs", nargs="+", metavar="RUNS", help="folders of runs or sweeps; last: the newest run")
    made.add_argument("--by", nargs="+", default=[], metavar="KEY", help="settings to group by; others are averaged")
    made.add_argument("--metric", nargs="+", default=[], metavar="NAME", help="columns of localization.csv to show")
    made.add_argument("--method", nargs="+", default=[], metavar="NAME", help="show only these")
    made.add_argument("--scope", help="round: this round's clients | lineage: all that ever took part; default: both")
    made.add_argument("--round", default="last", help="last that was traced (default) | a number | each | pooled")
    made.add_argument("--paired", metavar="METHOD", help="show what other methods differ from it by, on the same runs")
    made.add_argument("--format", help=f"{' | '.join(FORMATS)}; default: by the name of --out, else console")
    made.add_argument("--tidy", action="store_true", help="csv with one row for each metric")
    made.add_argument("--out", metavar="FILE", help="write there")
    return made


def _format(args: Namespace) -> str:
    if args.scope is not None and args.scope not in SCOPES:
        raise InputError(f"--scope {args.scope}: {did_you_mean(args.scope, SCOPES)}")
    if args.out is not None:
        check_out(Path(args.out))
    endings = {end: name for name, end in FORMATS.items()}
    by_name = None
    if args.out is not None:
        suffix = Path(args.out).suffix.lower()
        by_name = endings.get(suffix)
        if by_name is None and (suffix or args.format is None):
            raise InputError(f"--out {args.out}: must end in one of {' '.join(endings)}")
    chosen = args.format or ("csv" if args.tidy else by_name or "console")
    if chosen not in FORMATS:
        raise InputError(f"--format {chosen}: {did_you_mean(chosen, FORMATS)}")
    if args.tidy and chosen != "csv":
        raise InputError(f"--tidy is csv, --format {chosen} is not: one of them")
    return str(chosen)


def _round(text: str) -> int | str:
    if text in ("last", "each", "pooled"):
        return text
    if not text.isdecimal():
        raise InputError(f"--round {excerpt(text)}: must be last, each, pooled, or a round's number from 1")
    return whole("round", text, 1)


def read_places(places: Sequence[Path], whole: bool = False) -> tuple[list[RunFolder], list[MissingRun]]:
    """The runs that ended well, and the others; InputError where none did. `whole` as `read_run` takes it."""
    for place in places:
        if not place.exists():  # said before pandas is there
            raise InputError(no_run(place))
    read = [folders.read_run(folder, whole) for folder in folders.run_folders(places)]
    runs = [run for run in read if isinstance(run, folders.RunFolder)]
    absent = [*(run for run in read if isinstance(run, folders.MissingRun)), *folders.failures_below(places)]
    absent += [folders.MissingRun(os.path.relpath(place), NOT_MEASURED) for place in places if is_recorded(place)]
    if not runs:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        raise InputError(f"no run has ended well: {absent[0].name}: {absent[0].reason}{more}")
    return runs, absent


def _text(joined: join.JoinedRuns, chosen: str, tidy: bool) -> str:
    if chosen == "csv":
        return files.csv_text((joined_views.tidy_csv if tidy else joined_views.wide_csv)(joined))
    lines = [line.strip() for line in joined_views.below(joined)]
    if chosen == "latex":
        return to_latex([joined_views.wide(joined)], "; ".join(lines))
    return to_markdown([joined_views.wide(joined)], "\n".join(f"- {line}" for line in lines))


def _shown(joined: join.JoinedRuns, chosen: str, tidy: bool) -> None:
    if chosen == "console":
        make_console().print(_drawn(joined))
        return
    say(_text(joined, chosen, tidy), end="")
    if chosen == "csv" and joined.absent:  # a file of numbers has no room for it
        say("\n".join(joined_views.below(joined)[len(joined.notes) :]), to=sys.stderr)


def _drawn(joined: join.JoinedRuns) -> joined_views.JoinedTable:
    """The table for a console."""
    return joined_views.JoinedTable(joined_views.wide(joined), tuple(joined_views.below(joined)), len(joined.keys))


def _written(joined: join.JoinedRuns, path: Path, chosen: str, tidy: bool) -> None:
    if chosen == "console":
        text = StringIO()
        make_console(text, width=120).print(_drawn(joined))
        files.write_text(path, text.getvalue())
    else:
        files.write_text(path, _text(joined, chosen, tidy))
    say(f"{len(joined.sizes)} rows -> {path}")
    for line in joined_views.below(joined)[len(joined.notes) :]:
        say(line)


def _leave_failures(folder: Path, failures: Sequence[Failure]) -> None:
    """Write which jobs of a sweep failed, and why: those whose folder is gone are known from there only."""
    path = folder / folders.FAILURES
    if not failures:
        path.unlink(missing_ok=True)
        return
    rows = [
        {
            "job": _job(failure),
            "message": failure.message,
            "folder": os.path.relpath(failure.folder, folder) if failure.folder else "",
        }
        for failure in failures
    ]
    files.write_json(path, {"failures": rows})


def write_experiment(
    folder: Path, experiment: Experiment, runs: Sequence[RunFolder], absent: Sequence[MissingRun], option: str
) -> str:
    """Write the tables and the figure of an experiment; one line that says where they are."""
    name, _, scale = option.partition("/")
    command = f"provfl reproduce {name} --scale {scale or 'small'}"
    figures = reproduction.reproduction(runs, experiment, absent)
    written = experiment_tables.write_reproduction(folder, figures, command)
    return f"{', '.join(written)} in {os.path.relpath(folder)}/"


def sweep_table(
    places: Sequence[Path],
    folder: Path,
    failures: Sequence[Failure],
    experiment: Experiment | None = None,
    option: str = "",
) -> None:
    """Show the table of a sweep's jobs and leave it in the sweep's folder, the jobs that failed named below it.

    Args:
        places: the folders of the jobs; none: all below `folder`.
        folder: of the sweep.
        failures: what the caller says itself on the console; in the file it stands all the same.
        experiment: what the sweep is to show: its own tables and figure are written beside.
        option: the choice of `experiment=` that asked for it.
    """
    failed = [folders.MissingRun(_job(failure), failure.message) for failure in failures]
    told = {failure.folder for failure in failures}
    try:
        _leave_failures(folder, failures)
        jobs = [place for place in places or folders.run_folders([folder]) if str(place.absolute()) not in told]
        read = [folders.read_run(place) for place in jobs]
        runs = [run for run in read if isinstance(run, folders.RunFolder)]
        if not runs:
            return
        joined = join.join(runs, join.TableQuery(), [run for run in read if isinstance(run, folders.MissingRun)])
        whole = replace(joined, absent=(*failed, *joined.absent))
        files.write_text(folder / "table.md", _text(whole, "markdown", False))
        files.write_text(folder / "table.csv", _text(whole, "csv", False))
        line = "" if experiment is None else write_experiment(folder, experiment, runs, whole.absent, option)
    except (InputError, RunError) as error:
        complain(f"no table of the sweep: {error}")
        return
    terminal = make_console()
    terminal.print(console.heading("The jobs of the sweep"))
    terminal.print(_drawn(joined))
    terminal.print(f"table.md, table.csv in {os.path.relpath(folder)}/")
    if line:
        terminal.print(line)
    say_next_of_sweep(folder)


def _job(failure: Failure) -> str:
    return " ".join(failure.overrides) or "(no overrides)"
