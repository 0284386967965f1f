"""Recorded federations on the command line: what is given with them, and their inputs traced for a page or a figure."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from ..errors import InputError
from ..harmless import harmless
from ..imports import later
from ..reporting.terminal import make_console
from ..run.place import refuse_language_model, require_model_and_data, require_place
from ..store.recorded import missed_rounds, read_recorded, read_whole, why_nothing
from ..store.rounds import read_round, stored_rounds
from .arguments import whole
from .saying import say

if TYPE_CHECKING:
    from ..results.run import RunContents
    from ..run import open_recording, recording_report
else:  # torch comes with them
    open_recording = later("provfl_cli.run.open_recording")
    recording_report = later("provfl_cli.run.recording_report")

MODEL = "an option of conf/model, MODULE:FUNCTION (or a class), hf:FOLDER_OR_ID, or peft:FOLDER"
DATA = "FILE.safetensors (inputs, labels), FILE.parquet (text, label), or MODULE:FUNCTION"
TARGET = "explain this label, not the predicted one; of a model without classes output, output:J or mse"
TOKEN = "; of a response each token's centred, margin, logit or log_probability"


def add_of_run(made: ArgumentParser) -> None:
    """The options of commands that open a run."""
    run = made.add_argument_group("of a run (provfl run)")
    run.add_argument("--trust", action="store_true", help="it is mine: call its own model and methods, by their names")
    run.add_argument("--checkpoint", metavar="DIR", help="or a hub id: the architecture that its model started from")
    run.add_argument("--client", metavar="NUMBER", help="whose private tensors complete the model, such as its head")


def add_recorded(made: ArgumentParser, data: str = DATA, rounds: str | None = None) -> None:
    """Let a command take `--model`, `--data` and, where `rounds` says what for, `--round`."""
    group = made.add_argument_group("of a recorded federation (provfl import, Flower, NVFlare)")
    group.add_argument("--model", metavar="MODEL", help=MODEL)
    group.add_argument("--data", metavar="DATA", help=data)
    group.add_argument("--tokenizer", metavar="PLACE", help="of texts in the data: its folder, or tokenizer.json")
    if rounds is not None:
        group.add_argument("--round", metavar="N", help=rounds)
        group.add_argument("--target", metavar="LABEL", help=TARGET)


def refuse_recorded(args: Namespace, *names: str) -> None:
    """InputError where an option for recorded federations is given with a run."""
    for name in names:
        if getattr(args, name) is not None:
            raise InputError(f"--{name} is for recorded federations, a run brings its own: leave it out")


def refuse_run(args: Namespace, *names: str) -> None:
    """InputError where an option for runs is given with a recorded federation."""
    for name in names:
        if getattr(args, name):
            raise InputError(f"--{name} is for runs (provfl run), this is a recorded federation: leave it out")


def show_recording(folder: Path) -> None:
    """Say what a folder has of a federation that others trained: its clients, its rounds, and how to ask about them."""
    require_place(folder)
    recorded = read_whole(folder, every=True)
    if recorded is None:
        reason = why_nothing(folder)
        raise InputError(f"{folder}: no round of it could be recorded" + (f" ({reason})" if reason else ""))
    numbers, missed = stored_rounds(folder / "rounds"), missed_rounds(folder)
    clients = f"{_counted(len(recorded.clients), 'client')}, {_counted(len(numbers), 'round')}"
    say(f"{folder}: {clients}, recorded by {recorded.source}")
    table = Table("round", "client", "examples", "share", box=box.SIMPLE_HEAD)
    for number in sorted({*numbers, *missed}):
        if number in missed:
            table.add_row(str(number), escape(harmless(f"not recorded: {missed[number]}")), "", "")
            continue
        stored = read_round(folder / "rounds", number)
        columns = zip(stored.clients, stored.examples, stored.example_weights, strict=True)
        for position, (client, examples, share) in enumerate(columns):
            name = recorded.clients.get(client, str(client))
            known = f"{examples:,}" if examples else "not known"
            table.add_row("" if position else str(number), escape(harmless(name)), known, f"{share:.1%}")
        table.add_section()
    make_console(width=None if sys.stdout.isatty() else 120, markup=True).print(table)
    say(f"one prediction: provfl trace {folder} --model MODEL --data DATA; all of them: provfl report with the same")
    say(f"a language model's response: provfl trace {folder} --model hf:FOLDER (or peft:FOLDER) --prompt TEXT")


def traced(folder: Path, args: Namespace, last_only: bool = False) -> tuple[RunContents, str]:
    """A recorded federation with all given inputs traced, and how much that is.

    Of the round that `args.round` names; of none, in all rounds, or where `last_only` in the last.
    """
    number = None if args.round is None else whole("round", args.round, 1)
    require_place(folder)
    if read_recorded(folder) is not None:
        refuse_language_model(folder, args.model, args.data)
        require_model_and_data(folder, args.model, args.data)
    opened = open_recording.open_recorded(folder, args.model, args.data, args.target, args.tokenizer)
    numbers = opened.rounds if number is None and not last_only else [opened.round(number).number]
    inputs = opened.inputs.many(Path("all"))
    shown = f"{_counted(len(inputs.names), 'input')} in {_counted(len(numbers), 'round')}"
    console = make_console()
    with console.status(f"tracing {shown}…") if console.is_terminal else nullcontext():
        return recording_report.reported(opened, numbers, inputs, args.model, args.data, args.target), shown


def _counted(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"
