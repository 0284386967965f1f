"""`provfl watch FOLDER`: beside a federation that trains, says when a client leaves the band."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser, Namespace
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ..checks import Range, excerpt
from ..config.stored_config import HYDRA
from ..errors import InputError
from ..imports import later
from ..processes import one_thread
from ..reporting.terminal import make_console
from ..run.place import GENERATE, no_run, require_file, require_model_and_data, task_of
from .arguments import check_out, parser, read, whole
from .folder import named
from .recorded import DATA, MODEL, TARGET, refuse_recorded, refuse_run
from .saying import say

if TYPE_CHECKING:
    from ..run import hook, watch_shown, watched
else:  # torch comes with them
    hook = later("provfl_cli.run.hook")
    watch_shown, watched = later("provfl_cli.run.watch_shown"), later("provfl_cli.run.watched")

MOST_PROBES, MOST_SECONDS = 100_000, 1e7


def main(arguments: list[str]) -> int:
    """Watch until the federation has ended."""
    args = read(_parser(), arguments)
    if args is None:
        return 0
    folder = _place(named(args.folder))
    _check(args, folder)
    words = hook.hook_of(args.exec) if args.exec is not None else ()
    once = args.once or args.replay
    watching = watched.Watching(
        folder=folder,
        model=args.model,
        data=args.data,
        target=args.target,
        tokenizer=args.tokenizer,
        inputs=None if args.inputs is None else Path(args.inputs),
        probes=args.probes,
        updates=args.updates,
        trust=args.trust,
        checkpoint=args.checkpoint,
        strictness=args.strictness,
        once=once,
        poll=args.every,
        timeout=args.timeout,
    )
    if not once:  # beside a training, which comes first
        os.nice(10)
    console = make_console(sys.stderr if args.json else None)
    page = None if args.page is None else Path(args.page)
    shows = watch_shown.Shows(
        folder, console, say if args.json else None, page, words, time.sleep if args.replay else None
    )
    # several cores would wait for each other where somebody trains on the same ones
    with one_thread(), shows, closing(watched.watched(watching)) as events:
        try:
            for event in events:
                shows.take(event)
        except KeyboardInterrupt as error:
            if error.args:  # another signal than Ctrl-C, which says so
                raise
            shows.end("ended by Ctrl-C")
    return 0


def _place(folder: Path) -> Path:
    """The folder of the run or recording, where its `rounds` are named."""
    return folder.absolute().parent if folder.name == "rounds" and not (folder / "rounds").exists() else folder


def _check(args: Namespace, folder: Path) -> None:
    """Numbers made of what should be some; InputError for what does not go together, before torch is imported."""
    args.probes = whole("probes", str(args.probes), 1, MOST_PROBES)
    for name, least in (("strictness", 0.01), ("every", 0.05), ("timeout", 0.0)):
        setattr(args, name, _number(name, getattr(args, name), Range(least, MOST_SECONDS)))
    if args.page is not None:
        check_out(Path(args.page))
        if Path(args.page).suffix not in (".html", ".htm"):
            raise InputError(f"--page {args.page}: must end in .html")
    if args.inputs is not None and args.updates:
        raise InputError("--inputs and --updates: with --updates no inputs are looked at: one of them")
    if not folder.is_dir():
        raise InputError(no_run(folder))
    if (folder / HYDRA / "config.yaml").is_file():
        refuse_recorded(args, "model", "target", "tokenizer")
        if not args.updates and task_of(folder) == GENERATE:
            raise InputError(f"{folder}: its model answers prompts: --updates watches what clients send alone")
        if args.inputs is not None:
            require_file("--inputs", Path(args.inputs), folder_too=True)
        return
    refuse_run(args, "trust", "checkpoint")
    if args.inputs is not None:
        raise InputError(f"--inputs {args.inputs}: of a recorded federation the probes are its --data: leave it out")
    if not args.updates:
        if args.model is None and args.data is None and not any(folder.iterdir()):
            raise InputError(f"{folder}: is empty; of a recorded federation that begins give --model and --data")
        try:
            require_model_and_data(folder, args.model, args.data)
        except InputError as error:
            raise InputError(f"{error}; or --updates, to look at what clients send alone") from None


def _number(name: str, text: str | None, limits: Range) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not limits.least <= value <= limits.most:
        raise InputError(f"--{name} {excerpt(text)}: must be a number, {limits.least:g} or more")
    return value


def _parser() -> ArgumentParser:
    made = parser(
        "watch",
        {"FOLDER": "FOLDER comes first: provfl watch outputs/DATE/TIME"},
        description="Sits beside a federation that trains, measures every client of each round as soon as it is "
        "written, over the same inputs, and says when one leaves the band: far from the others, or from what it was "
        "in its own rounds before. It only reads.",
    )
    made.add_argument("folder", metavar="FOLDER", help="of a run (or its rounds), or of a recorded federation")
    what = made.add_argument_group("what is looked at")
    what.add_argument("--inputs", metavar="PATH", help="probes, with or without labels; default: a run's test set")
    what.add_argument("--probes", default=500, metavar="N", help="at most so many inputs (default: 500)")
    what.add_argument("--updates", action="store_true", help="what clients send alone: no model, no inputs")
    what.add_argument(
        "--strictness", default="1", metavar="X", help="above 1 fewer clients leave the band (default: 1)"
    )
    how = made.add_argument_group("what is done")
    how.add_argument("--page", metavar="FILE", help="write an .html page there, which reads itself again from disk")
    how.add_argument("--exec", metavar="CMD", help="call it when a client leaves; JSON on stdin, PROVFL_* set")
    how.add_argument("--json", action="store_true", help="one JSON object a round, for scripts")
    when = made.add_argument_group("until when; default: the run has ended, or Ctrl-C")
    when.add_argument("--once", action="store_true", help="go through the rounds that are there, and end")
    when.add_argument("--replay", action="store_true", help="the same, slowly enough to look at")
    when.add_argument("--timeout", metavar="SECONDS", help="end when no round has come for so long")
    when.add_argument("--every", default="0.5", metavar="SECONDS", help="between two looks (default: 0.5)")
    run = made.add_argument_group("of a run (provfl run)")
    run.add_argument("--trust", action="store_true", help="it is mine: use what its configuration names")
    run.add_argument("--checkpoint", metavar="DIR", help="or a hub id: the architecture that its model started from")
    recorded = made.add_argument_group("of a recorded federation (Flower, NVFlare)")
    recorded.add_argument("--model", metavar="MODEL", help=MODEL)
    recorded.add_argument("--data", metavar="DATA", help=f"{DATA}: the probes; of a run: where its dataset is now")
    recorded.add_argument("--tokenizer", metavar="PLACE", help="of texts in the data: its folder, or tokenizer.json")
    recorded.add_argument("--target", metavar="TARGET", help=TARGET)
    return made
