"""An experiment of several tasks, each a sweep of its own, and what it writes of those that have been run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.types import RunMode

from ..errors import InputError, RunError, did_you_mean
from ..imports import later
from .saying import complain, say

if TYPE_CHECKING:
    from ..comparison import benchmark, diagnoses
    from ..config import compose
    from ..config.schema import Experiment
    from ..reporting import benchmark as pages
    from ..reporting import diagnosis_page
    from ..results import folders
    from . import run
else:  # Hydra comes with two of them, pandas with the others
    benchmark, diagnoses = later("provfl_cli.comparison.benchmark"), later("provfl_cli.comparison.diagnoses")
    pages, diagnosis_page = later("provfl_cli.reporting.benchmark"), later("provfl_cli.reporting.diagnosis_page")
    compose = later("provfl_cli.config.compose")
    folders = later("provfl_cli.results.folders")
    run = later("provfl_cli.cli.run")


def experiment_of(option: str) -> Experiment:
    """The block of an experiment, as `experiment=OPTION` composes it."""
    asked = compose.parse([f"experiment={option}"])
    with compose.hydra_session(asked) as hydra:
        experiment = compose.shown_by(hydra.compose_config(compose.PRIMARY, asked.overrides, RunMode.MULTIRUN))
    assert experiment is not None  # each of those that `provfl reproduce` lists has one
    return experiment


def run_tasks(option: str, folder: Path, out: Path, only: str | None, overrides: Sequence[str]) -> int:
    """Run the tasks one after the other, each in a folder of its own below `folder`; what all that are there come to.

    What is wrong with a task is said, and the others go on. A task that was interrupted goes on where it was.

    Args:
        option: the choice of `experiment=`.
        folder: of the experiment, in which earlier tasks may have left their runs.
        out: where page, table and figure go.
        only: the name of the one task to run; None: all.
        overrides: that go with every task.

    Returns:
        The exit code: 0 where all went well, 1 where something failed, 2 where all that failed was wrong input.

    Raises:
        InputError: there is no such task.
    """
    experiment = experiment_of(option)
    if only is not None and only not in experiment.task_names:
        raise InputError(f"--task {only}: {did_you_mean(only, experiment.task_names)}")
    codes = {}
    for name, *settings in experiment.tasks:
        if only in (None, name):
            say(f"task {name}")
            codes[name] = _swept(option, folder / name, [*settings, *overrides], name)
            if any(_ended_well(folder / task) for task in experiment.task_names):
                say(write_tasks(folder, out, experiment, option))
    if failed := [name for name, code in codes.items() if code]:
        complain(f"failed: {', '.join(failed)}")
    return max(codes.values(), key=lambda code: code == 1, default=0)


def write_tasks(runs: Path, out: Path, experiment: Experiment, option: str) -> str:
    """Write the page, the table and the figure of the tasks that have runs below `runs`; one line on where they are.

    Raises:
        InputError: none has.
    """
    name, _, scale = option.partition("/")
    there = {task: _ended_well(runs / task) for task in experiment.task_names}
    if not any(there.values()):
        raise InputError(f"{runs}: no task has been run there; it would hold a folder for each: {', '.join(there)}")
    command = f"provfl reproduce {name} --scale {scale or 'small'}"
    if experiment.page == "diagnosis":
        written = diagnosis_page.write_page(out, experiment, diagnoses.diagnoses(there), command)
    else:
        written = pages.write_benchmark(out, benchmark.benchmark(experiment, there), command)
    return f"{', '.join(written)} in {os.path.relpath(out)}/"


def _swept(option: str, folder: Path, settings: Sequence[str], name: str) -> int:
    try:
        return run.main([f"experiment={option}", f"hydra.sweep.dir='{folder}'", *settings])
    except (InputError, RunError) as error:
        complain(f"{name}: {error}")
        return 2 if isinstance(error, InputError) else 1


def _ended_well(folder: Path) -> list[folders.RunFolder]:
    """The runs below a folder, which need not be there."""
    if not folder.is_dir():
        return []
    read = [folders.read_run(run) for run in folders.folders_below(folder)]
    return [run for run in read if isinstance(run, folders.RunFolder)]
