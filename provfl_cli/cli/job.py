"""One job as Hydra starts it: validate, run, and hand back what went wrong rather than raise it.

A failure is returned, so that the other jobs of a sweep go on, whichever process they run in.
"""

import os
import sys
import time
import traceback
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ..bounded import read_json
from ..config.compose import texts, validated
from ..config.environment import EnvironmentValue, environment, masked, store
from ..errors import InputError, RunError
from ..harmless import harmless, harmless_lines
from ..imports import later
from ..store.locks import FolderClaimed
from .ended import signal_that_came
from .folder import discard_if_nothing_computed, held
from .saying import complain, say
from .waiting import waiting

if TYPE_CHECKING:
    from ..run import job as composition
else:  # torch comes with it
    composition = later("provfl_cli.run.job")


SUMMARY = "summary.json"
SAID = (  # figures of a job that stand in its line, their words, and what chance scores
    ("global_accuracy", "accuracy", ""),
    ("fault_accuracy", "faulty client on top", "fault_chance"),
    ("localization_accuracy", "localization", "chance_accuracy"),
)


@dataclass(frozen=True)
class Failure:
    """Why a job ended badly."""

    overrides: tuple[str, ...]
    message: str  # one line
    exit_code: int  # 2 wrong input, 1 anything else
    folder: str = ""  # of the job, absolute; gone where nothing was computed


def job(cfg: DictConfig) -> Failure | None:
    """Run one composed configuration in the folder that Hydra made for it; None when all went well."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    overrides = tuple(texts(hydra.overrides.task))
    sweep = hydra.mode == RunMode.MULTIRUN
    began = time.monotonic()
    try:
        config = validated(cfg)
        _store_resolved(cfg, folder, hydra.output_subdir)
        # A sweep holds its own folder, jobs theirs; a run's was taken before Hydra wrote into it.
        own = sweep and folder.absolute() != Path(hydra.sweep.dir).absolute()
        with held(folder, config.store.lock) if own else nullcontext():
            _remove_stale(folder)
            with waiting("loading libraries"):
                run = composition.run
            run(config, folder, quiet=sweep)
            if sweep:  # its table follows
                say(f"job {hydra.job.num}: {' '.join(overrides)}  {_came_to(folder, time.monotonic() - began)}")
    except KeyboardInterrupt:
        discard_if_nothing_computed(folder, hydra.job.name)
        raise
    except Exception as error:
        ended = signal_that_came()
        if ended is not None:  # the error was raised in its stead, or on the way out
            discard_if_nothing_computed(folder, hydra.job.name)
            raise ended from error
        failure = _failure(error, overrides, folder, hydra.job.name, environment(cfg))
        if sweep:  # a sweep may go on for hours: said now, and once more at its end
            complain(f"job {hydra.job.num} failed: {failure.message}")
        return failure
    return None


def _came_to(folder: Path, seconds: float) -> str:
    """The figures of a job, in a few words."""
    try:
        figures = read_json(folder / SUMMARY)
    except (OSError, ValueError):
        figures = {}
    parts = []
    for name, word, chance in SAID:
        value, by_chance = figures.get(name), figures.get(chance)
        if isinstance(value, int | float):
            beside = f" (chance {by_chance:.3f})" if isinstance(by_chance, int | float) else ""
            parts.append(f"{word} {value:.3f}{beside}")
    return ", ".join([*parts, f"{seconds:.0f} s"])


def _store_resolved(cfg: DictConfig, folder: Path, subfolder: str | None) -> None:
    """Let the folder hold what the settings came to, not how they were composed; values of the environment are not."""
    file = folder / (subfolder or "") / "config.yaml"
    if subfolder is not None and file.is_file():
        store(cfg, file)


def _remove_stale(folder: Path) -> None:
    """Remove what says how an earlier run in the folder ended."""
    for stale in ("error.log", SUMMARY, "manifest.json"):
        try:
            (folder / stale).unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{folder / stale} is in the way: not a file; move it away") from error


def _failure(
    error: Exception, overrides: tuple[str, ...], folder: Path, job_name: str, taken: tuple[EnvironmentValue, ...]
) -> Failure:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        say("".join(traceback.format_exception(error)), end="", to=sys.stderr)
    if isinstance(error, InputError):
        if not isinstance(error, FolderClaimed):  # then it is another's folder
            discard_if_nothing_computed(folder, job_name)
        return Failure(overrides, one_line(masked(str(error), taken)), 2, str(folder.absolute()))
    text = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
    line = one_line(masked(text, taken))
    return Failure(overrides, f"{line} ({_logged(error, folder, taken)})", 1, str(folder.absolute()))


def _logged(error: Exception, folder: Path, taken: tuple[EnvironmentValue, ...]) -> str:
    """Write the traceback of `error` into the run folder; where it can be read."""
    path = folder / "error.log"
    try:
        path.write_text(harmless_lines(masked("".join(traceback.format_exception(error)), taken)), encoding="utf-8")
    except OSError:  # a full disk may be the error itself
        return "HYDRA_FULL_ERROR=1 shows the traceback"
    return f"traceback in {os.path.relpath(path)}"


def one_line(text: str, limit: int = 500) -> str:
    """A text without line breaks and control characters, cut where it is long."""
    line = harmless(" ".join(text.split()))
    return line if len(line) <= limit else f"{line[:limit]}…"
