"""`provfl diagnose RUN`: who is behind its mistakes, or other predictions, and what happens without them."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..imports import later
from ..reporting.terminal import make_console
from ..run.place import GENERATE, require_file, require_model_and_data, require_place, task_of
from ..store.recorded import is_recorded, read_recorded
from .arguments import parser, read, whole
from .folder import named
from .recorded import DATA, add_of_run, add_recorded, refuse_recorded, refuse_run
from .saying import say

if TYPE_CHECKING:
    from ..reporting import diagnosis as shown
    from ..results import diagnosis, files
    from ..run import diagnosed, diagnosis_inputs, open_recording, open_run
    from ..run.open_run import OpenFederation
    from ..store import cache
else:  # torch comes with most of them
    shown, diagnosis = later("provfl_cli.reporting.diagnosis"), later("provfl_cli.results.diagnosis")
    files, cache = later("provfl_cli.results.files"), later("provfl_cli.store.cache")
    diagnosed, diagnosis_inputs = later("provfl_cli.run.diagnosed"), later("provfl_cli.run.diagnosis_inputs")
    open_recording, open_run = later("provfl_cli.run.open_recording"), later("provfl_cli.run.open_run")

ABOUT = ("inputs", "wrong", "label", "since")


def main(arguments: list[str]) -> int:
    """Diagnose, and show the answer; 0 whether anybody stands out or not."""
    args = read(_parser(), arguments)
    if args is None:
        return 0
    args.run = named(args.run)
    asked, number = _question(args)
    opened = _opened(args)
    console = make_console(sys.stderr)
    with (
        cache.in_use(opened.folder / "rounds"),
        console.status("tracing, and leaving suspects out…") if console.is_terminal else nullcontext(),
    ):
        found = diagnosed.diagnose(diagnosis_inputs.material_of(opened, asked, number))
    if args.json:
        say(files.json_text(diagnosis.as_json(found)), end="")
    else:
        make_console().print(shown.show(found))
    return 0


def _parser() -> ArgumentParser:
    made = parser(
        "diagnose",
        {"RUN": "RUN comes first: provfl diagnose outputs/DATE/TIME"},
        description="Says which clients are behind the mistakes of a model, or that nobody stands out, and what is "
        "predicted without them: the round is fused again. Other predictions may be asked about.",
        epilog="exit code: 0 diagnosed, whether somebody stands out or nobody does; 2 wrong input; 1 failed",
    )
    made.add_argument("run", metavar="RUN", help="a run's folder, or a recorded federation (provfl import)")
    made.add_argument("--round", metavar="N", help="of its model; default: the last one traced")
    what = made.add_argument_group("what is asked about; default: all mistakes among the inputs at hand")
    what.add_argument("--wrong", action="store_true", help="mistakes; without labels that is refused")
    what.add_argument("--label", metavar="LABEL", help="predictions of this label")
    what.add_argument("--since", metavar="ROUND", help="mistakes that the model before this round had right")
    what.add_argument("--inputs", metavar="PATH", help="a table, or pictures; of a recorded federation: all")
    made.add_argument("--json", action="store_true", help="one JSON object, for scripts: its suspects may be []")
    add_of_run(made)
    add_recorded(made, f"{DATA}; of a run: where its dataset is now, a folder, a file or a hub id")
    return made


def _question(args: Namespace) -> tuple[diagnosis_inputs.Asked, int | None]:
    """What is asked about, and of which round; InputError for what does not go together, or is not there."""
    chosen = [f"--{name}" for name in ABOUT if getattr(args, name) not in (None, False)]
    if len(chosen) > 1:
        raise InputError(f"{' and '.join(chosen)}: one of them at a time")
    number = None if args.round is None else whole("round", args.round, 1)
    since = None if args.since is None else whole("since", args.since, 1)
    folder = args.run
    require_place(folder)
    inputs = None if args.inputs is None else Path(args.inputs)
    if is_recorded(folder):
        if read_recorded(folder) is not None:
            require_model_and_data(folder, args.model, args.data)
    else:
        if task_of(folder) == GENERATE:
            raise InputError(f"{folder}: its model answers prompts: provfl trace {folder} --prompt TEXT")
        if inputs is not None:
            require_file("--inputs", inputs, folder_too=True)
    return diagnosis_inputs.Asked(inputs, args.wrong, args.label, since), number


def _opened(args: Namespace) -> OpenFederation:
    folder = args.run
    if is_recorded(folder):
        refuse_run(args, "trust", "checkpoint", "client")
        return open_recording.open_recorded(folder, args.model, args.data, None, args.tokenizer)
    refuse_recorded(args, "model", "tokenizer")
    opened = open_run.open_run(folder, args.trust, args.data, args.checkpoint)
    return opened if args.client is None else opened.with_private_of(args.client)
