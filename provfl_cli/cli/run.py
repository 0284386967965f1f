"""`provfl run`: Hydra's flags, one job or a sweep, and what is said when something goes wrong."""

import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.compose import Plan, hydra_session, parse, parser, plan
from ..config.loader import Loader
from ..errors import InputError
from ..imports import later
from .completion import complete
from .ended import signal_that_came
from .folder import claimed, held, pruned, unclaimed_pattern, wanted
from .job import Failure, job, one_line
from .next_step import say_next
from .saying import complain, say
from .waiting import waiting

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra

    from . import table
else:  # rich comes with it, which what is wrong with a setting can be said without
    table = later("provfl_cli.cli.table")


def main(arguments: list[str]) -> int:
    """Run, sweep, or answer one of Hydra's flags (`--cfg`, `--info`, `--help`, `-sc`, …); see `provfl run --help`."""
    args = parse(arguments)
    _refuse_contradictions(args)
    with hydra_session(args) as hydra:
        if _answered(hydra, args):
            return 0
        with waiting("checking the settings"):  # of a thousand jobs it takes half a minute
            asked = plan(hydra, args)
        failures = _executed(hydra, asked)
    return _reported(failures, asked)


def _refuse_contradictions(args: Namespace) -> None:
    flags = {"--run": args.run, "--multirun": args.multirun, "--cfg": args.cfg, "--info": args.info}
    chosen = [name for name, value in {**flags, "--shell-completion": args.shell_completion}.items() if value]
    if len(chosen) > 1:
        raise InputError(f"{' and '.join(chosen)}: one of them at a time")
    if args.resolve and not (args.cfg or args.help):
        raise InputError("--resolve goes with --cfg or --help")


def _answered(hydra: "Hydra", args: Namespace) -> bool:
    """Whether a flag asked for something to show; shown by Hydra's own code."""
    name = args.config_name or "config"
    if args.help:
        hydra.app_help(name, parser(), args)
    elif args.hydra_help:
        hydra.hydra_help(name, parser(), args)
    elif args.cfg:
        try:
            hydra.show_cfg(name, args.overrides, args.cfg, args.package, args.resolve)
        except SystemExit:  # an unknown --package: said by Hydra, which ends with 1
            raise SystemExit(2) from None
    elif args.info:
        hydra.show_info(args.info, name, args.overrides)
    elif args.shell_completion:
        complete(hydra, name, args.overrides)
    else:
        return False
    return True


def _executed(hydra: "Hydra", asked: Plan) -> list[Failure]:
    """Run the jobs of the plan in a folder that is this process's own; what failed."""
    key = "sweep" if asked.sweep else "run"
    where = wanted(asked.base, key)
    made = claimed(asked.base, key) if unclaimed_pattern(asked.base, key) else None
    overrides = asked.overrides
    if made is not None:
        loader = hydra.config_loader
        assert isinstance(loader, Loader)
        overrides = [*overrides, loader.settle(f"hydra.{key}.dir", str(made))]
    try:
        # Held before Hydra writes the configuration there.
        subfolder = str(asked.base.hydra.output_subdir or ".hydra")
        with held(made or where, str(asked.base.store.lock), asked.sweep, subfolder):
            if asked.sweep:
                returned, failures = _swept(hydra, asked, overrides)
                _joined(returned, made, failures, asked)
                return failures
            returned = hydra.run(asked.config_name, job, overrides)
            failures = list(_failures(returned))
            if not failures:
                say_next(made or where)
            return failures
    except OSError as error:  # what happens inside a job is returned; Hydra makes the folder that the user named
        place = error.filename or error.filename2 or where
        raise InputError(f"{place}: the run folder cannot be made or written to ({error.strerror or error})") from error
    finally:
        if made is not None:
            pruned(made)


def _swept(hydra: "Hydra", asked: Plan, overrides: list[str]) -> tuple[Any, list[Failure]]:
    """What the jobs of a sweep returned, and what failed."""
    if asked.jobs:
        say(f"{len(asked.jobs)} jobs, a line for each when it has ended")
    try:
        returned = hydra.multirun(asked.config_name, job, overrides)
    except (InputError, OSError):
        raise
    except Exception as error:  # jobs return what fails in them: one was killed, so its launcher gave up
        ended = signal_that_came()
        if ended is not None:  # with all of the group
            raise ended from error
        lost = "; jobs that still run are not in the table: when they have ended, provfl table DIR joins them all"
        launcher = f"hydra/launcher={asked.base.hydra.runtime.choices.get('hydra/launcher')}"
        return [], [Failure((launcher,), f"gave up ({one_line(f'{type(error).__name__}: {error}', 200)}){lost}", 1)]
    return returned, list(_failures(returned))


def _failures(returned: Any) -> Iterator[Failure]:
    """What failed among the returns of a job, or of the batches of a sweep."""
    for job_return in _returns(returned):
        if isinstance(job_return._return_value, Failure):
            yield job_return._return_value


def _joined(returned: Any, claimed_folder: Path | None, failures: list[Failure], asked: Plan) -> None:
    """Leave the table of a sweep's jobs in its folder, and what failed: of some jobs nothing else is left."""
    done = list(_returns(returned))  # other sweepers than Hydra's own return nothing: all jobs in the folder, then
    sweep = done[0].hydra_cfg.hydra.sweep if done else asked.base.hydra.sweep
    folder = Path(sweep.dir).absolute() if done or claimed_folder is None else claimed_folder
    places = [Path(job_return.hydra_cfg.hydra.runtime.output_dir) for job_return in done]
    experiment = None if asked.experiment is None or asked.experiment.tasks else asked.experiment  # one of its tasks
    table.sweep_table(places, folder, failures, experiment, asked.base.hydra.runtime.choices.get("experiment") or "")


def _returns(returned: Any) -> Iterator[Any]:
    if isinstance(returned, list | tuple):
        for batch in returned:
            yield from _returns(batch)
    elif hasattr(returned, "_return_value"):
        yield returned


def _reported(failures: list[Failure], asked: Plan) -> int:
    """Say on stderr what failed; the exit code: 1 where something failed, 2 where all of it was wrong input."""
    if not failures:
        return 0
    if asked.sweep:
        total = f" of {len(asked.jobs)}" if asked.jobs else ""
        complain(f"{len(failures)}{total} jobs failed")
        for failure in failures:
            say(f"  {' '.join(failure.overrides) or '(no overrides)'}: {failure.message}", to=sys.stderr)
    else:
        complain(f"{failures[0].message}")
    return max(failures, key=lambda failure: failure.exit_code == 1).exit_code
