"""`provfl report RUN_OR_SWEEP…`: runs, or a recorded federation, as one HTML file to explore without a network."""

from __future__ import annotations

import webbrowser
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..imports import later
from ..store.recorded import is_recorded
from .arguments import check_out, parser, read
from .ended import EndedBySignal
from .folder import named
from .recorded import DATA, add_recorded, refuse_recorded, traced
from .saying import say
from .table import read_places

if TYPE_CHECKING:
    from ..reporting.page import document
    from ..results import files
    from ..results import run as reading
    from ..results.folders import MissingRun
    from ..run import live, open_run
    from ..store import cache
    from . import serving
else:  # pandas comes with the page, numpy with the files
    document = later("provfl_cli.reporting.page.document")
    files, reading = later("provfl_cli.results.files"), later("provfl_cli.results.run")
    live, open_run = later("provfl_cli.run.live"), later("provfl_cli.run.open_run")
    cache, serving = later("provfl_cli.store.cache"), later("provfl_cli.cli.serving")

NAME = "report.html"


def main(arguments: list[str]) -> int:
    """Write the page, and say where."""
    args = read(_parser(), arguments)
    if args is None:
        return 0
    places = [named(place) for place in args.runs]
    out = Path(args.out) if args.out else (places[0] if len(places) == 1 else Path()) / NAME
    if args.out:
        check_out(out)
    if out.suffix not in (".html", ".htm"):
        raise InputError(f"--out {out}: must end in .html")
    recorded = [place for place in places if is_recorded(place)]
    if recorded and len(places) > 1:
        raise InputError(f"{recorded[0]}: a recorded federation has a page of its own: give it alone")
    if args.serve and recorded:
        raise InputError(
            f"{recorded[0]}: --serve is for runs (provfl run), this is a recorded federation: leave it out"
        )
    if args.serve:
        return _serve(places, args)
    text, shown, absent = _recorded(recorded[0], args) if recorded else _runs(places, args)
    files.write_text(out, text)
    megabytes = out.stat().st_size / 1e6
    say(f"{shown} -> {out} ({megabytes:.1f} MB, needs no network)")
    for missing in absent:
        say(f"not in it: {missing.name}: {missing.reason}")
    if args.open and not webbrowser.open(out.absolute().as_uri()):
        say("no browser could be started: open the file yourself")
    return 0


def _serve(places: Sequence[Path], args: Namespace) -> int:
    """Serve the page of one run until Ctrl-C; nothing is written."""
    if args.out is not None:
        raise InputError("--serve writes no file: leave --out out")
    refuse_recorded(args, "model", "data", "round", "target", "tokenizer")
    runs, _ = read_places(places, whole=True)
    if len(runs) != 1:
        raise InputError(f"--serve: one run at a time, there are {len(runs)}")
    opened = open_run.open_run(runs[0].folder)
    with cache.in_use(opened.folder / "rounds"):
        answering = live.LiveRun(opened)
        page = document.page_of(reading.read_contents(runs[0]), live=True)
        with serving.PageServer(page, answering.without) as server:
            say(f"{server.address} (of this machine alone, for who has the address; Ctrl-C ends it)")
            if args.open:
                webbrowser.open(server.address)
            try:
                server.serve_forever()
            except EndedBySignal:
                raise
            except KeyboardInterrupt:  # how it is meant to end
                pass
    say("ended")
    return 0


def _runs(places: Sequence[Path], args: Namespace) -> tuple[str, str, Sequence[MissingRun]]:
    """The page of runs, what is in it, and what is not."""
    refuse_recorded(args, "model", "data", "round", "target", "tokenizer")
    runs, absent = read_places(places, whole=True)
    return document.page(runs, absent), f"{len(runs)} run{'s' * (len(runs) > 1)}", absent


def _recorded(folder: Path, args: Namespace) -> tuple[str, str, Sequence[MissingRun]]:
    """The page of a recorded federation, what is in it, and nothing else."""
    contents, shown = traced(folder, args)
    return document.page_of(contents), shown, ()


def _parser() -> ArgumentParser:
    made = parser(
        "report",
        {"RUN": "a run or a sweep comes first: provfl report outputs/DATE/TIME"},
        description="Writes one HTML file to explore runs in: figures beside chance, a map of all contributions, "
        "clients, inputs, methods, settings; of several runs also curves and a comparison. Of a recorded federation "
        "it traces the inputs that are given.",
    )
    made.add_argument(
        "runs",
        nargs="+",
        metavar="RUN_OR_SWEEP",
        help="run folders (last: the newest), sweep folders, or folders of them; or a recorded federation",
    )
    made.add_argument(
        "--out", metavar="FILE", help=f"write there; default: {NAME} in the folder given, of several here"
    )
    made.add_argument(
        "--serve", action="store_true", help="serve it to this machine instead, and leave clients out on demand"
    )
    made.add_argument("--open", action="store_true", help="open it in the browser")
    add_recorded(made, f"{DATA}; all inputs are traced", "trace this round only; default: all that are stored")
    return made
