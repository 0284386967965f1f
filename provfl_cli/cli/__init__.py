"""The command line: `provfl COMMAND ARGUMENTS`. Nothing here but argument handling and exit codes.

A command is one module of this package with `main(arguments) -> exit code`, and one line in `COMMANDS`.
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from keyword import iskeyword

from .. import __version__
from ..checks import excerpt
from ..errors import InputError, RunError, did_you_mean
from ..garbage import collect_rarely
from ..library_warnings import library_warnings_ignored
from ..waiting_threads import choose_waiting
from .ended import EndedBySignal, answer_signals, leave_signals, signal_that_came
from .saying import complain, say

COMMANDS = {  # name: what it does, an example
    "run": ("train a federation, trace predictions to clients, write tables", "provfl run model=resnet18 seed=1"),
    "trace": (
        "ask which clients pushed one prediction, and what if they had not",
        "provfl trace last --verify",
    ),
    "diagnose": ("say who is behind the mistakes, and what is without them", "provfl diagnose last"),
    "table": ("join runs and sweeps into one table, seeds averaged", "provfl table outputs/multirun --paired tracefl"),
    "report": ("write one HTML page to explore runs in", "provfl report last --open"),
    "figure": ("draw a figure for a paper", "provfl figure last ranking --out ranking.pdf"),
    "repair": (
        "make the global model without some clients, and measure what it is worth",
        "provfl repair last --without 0,4",
    ),
    "watch": ("say who leaves the band while a federation trains", "provfl watch outputs/DATE/TIME --once"),
    "import": (
        "make a round of models that others trained, to trace it",
        "provfl import --global after.safetensors --previous before.safetensors --client alice=alice.safetensors:600",
    ),
    "reproduce": ("the paper's tables and figures, and more", "provfl reproduce thresholds --scale smoke"),
    "doctor": ("whether this installation, machine and cache can do what a run needs", "provfl doctor --offline"),
    "clean": ("what the training cache holds, and deleting what is not needed", "provfl clean --older-than 30"),
    "ls": ("list the config groups and their options", "provfl ls model"),
    "cp": ("copy an option's file out, to edit it", "provfl cp model/lenet my/model/wide.yaml"),
}
RESUMED = (["run"], ["reproduce"])  # what they have computed is found again
OF_THE_USER = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)
COMPLETION_FLAGS = ("--shell-completion", "-sc")
OK, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 fine, 1 failed, 2 wrong input, 128 + its number for a signal."""
    ours = argv is None  # the process
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if ours:
            answer_signals()
            collect_rarely()
            choose_waiting(os.environ)
        with library_warnings_ignored():
            return _dispatch(arguments)
    except SystemExit as error:  # of a model or data that are called: our own commands return
        if signal_that_came() is None and arguments[:1] == ["run"]:  # but Hydra, which has said why
            raise
        return _said(error, arguments)
    except BaseException as error:
        return _said(error, arguments)
    finally:
        if ours:
            leave_signals()


def _said(error: BaseException, arguments: list[str]) -> int:
    """Say what ended a command; its exit code."""
    error = signal_that_came() or error  # what was raised in its stead says nothing
    if isinstance(error, KeyboardInterrupt):
        resumed = "; the same command goes on from the last whole round" if arguments[:1] in RESUMED else ""
        with suppress(OSError):  # the terminal may be what has gone
            complain(f"ended by {error}{resumed}" if isinstance(error, EndedBySignal) else f"interrupted{resumed}")
        return 128 + error.number if isinstance(error, EndedBySignal) else INTERRUPTED
    if isinstance(error, SystemExit):
        complain(f"a function that was called ended the program ({excerpt(error)}): let it raise an exception instead")
        return WRONG_INPUT
    if isinstance(error, BrokenPipeError):  # such as `provfl ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    if not isinstance(error, Exception):
        raise error
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        say("".join(traceback.format_exception(error)), end="", to=sys.stderr)
    if isinstance(error, OSError):  # of a file that is named on the command line, or lies in a folder that is
        place = error.filename2 or error.filename
        complain(f"{excerpt(place) if place else type(error).__name__}: {(error.strerror or str(error)).lower()}")
        return WRONG_INPUT if error.errno in OF_THE_USER else FAILED
    known = isinstance(error, InputError | RunError)
    complain(
        str(error)
        if known
        else f"{type(error).__name__}: {excerpt(error, 500)} (HYDRA_FULL_ERROR=1 shows the traceback)"
    )
    return WRONG_INPUT if isinstance(error, InputError) else FAILED


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        say(_help())
        return OK
    name, *rest = arguments
    if name == "--version":
        say(f"provfl {__version__}")
        return OK
    if name in COMPLETION_FLAGS:  # a shell asks the program, whatever the command
        name, rest = "run", arguments
    if name not in COMMANDS:
        raise InputError(f"{name}: no such command, {did_you_mean(name, COMMANDS)} (provfl --help)")
    module = f"{name}_" if iskeyword(name) else name
    code: int = import_module(f"{__name__}.{module}").main(rest)
    return code


def _help() -> str:
    lines = ["provfl: which clients of a federation are responsible for a prediction of its global model?", ""]
    for name, (summary, example) in COMMANDS.items():
        lines += [f"  provfl {name:<9} {summary}", f"                   {example}"]
    lines += [
        "",
        "  provfl run --help lists what can be set; provfl run --cfg job shows what a run would use.",
        '  eval "$(provfl run -sc install=bash)" completes keys and options by the tab key (also zsh, fish).',
    ]
    return "\n".join(lines)
