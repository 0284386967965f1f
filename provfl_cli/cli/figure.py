"""`provfl figure RUN KIND --out FILE`: a figure of a run, or of a recorded federation, for a paper."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..imports import later
from ..run.place import no_run
from ..store.recorded import is_recorded
from .arguments import check_out, parser, read, whole
from .folder import named
from .recorded import DATA, add_recorded, refuse_recorded, traced
from .saying import say
from .table import read_places

if TYPE_CHECKING:
    from ..reporting import figures
    from ..results import run as results
else:  # pandas comes with them
    figures = later("provfl_cli.reporting.figures")
    results = later("provfl_cli.results.run")


def main(arguments: list[str]) -> int:
    """Draw the figure, and say where it is."""
    args = read(_parser(), arguments)
    if args is None:
        return 0
    out, folder = Path(args.out), named(args.run)
    if not folder.exists():  # said before what draws is imported
        raise InputError(no_run(folder))
    figures.check_kind(args.kind)
    check_out(out)
    figures.check_ending(out)
    if args.input is not None and args.kind != "ranking":
        raise InputError(f"--input is for ranking, {args.kind} shows all inputs: leave it out")
    number = None if args.input is None else whole("input", args.input, 0)
    opened = _opened(folder, args)
    for line in opened.warnings:
        say(f"warning: {line}", to=sys.stderr)
    figures.save(figures.draw(opened, args.kind, number), out)
    say(f"{args.kind} -> {out}")
    return 0


def _opened(folder: Path, args: Namespace) -> results.RunContents:
    """What is to be drawn: a run as it was recorded, or a recorded federation, its inputs traced now."""
    if is_recorded(folder):
        return traced(folder, args, last_only=args.kind != "accuracy")[0]
    refuse_recorded(args, "model", "data", "round", "target", "tokenizer")
    runs, _ = read_places([folder], whole=True)
    if len(runs) > 1:
        raise InputError(f"{folder}: holds {len(runs)} runs, give one, such as {runs[0].folder}")
    return results.read_contents(runs[0])


def _parser() -> ArgumentParser:
    made = parser(
        "figure",
        description="Draws a figure of a run for a paper.",
        epilog="\n".join(f"{name:<10} {draws.__doc__}" for name, draws in figures.KINDS.items()),
        formatter_class=RawDescriptionHelpFormatter,
    )
    made.add_argument("run", metavar="RUN", help="a run folder, last (the newest), or a recorded federation")
    made.add_argument("kind", metavar="KIND", help=" | ".join(figures.KINDS))
    endings = " ".join(figures.ENDINGS)
    made.add_argument("--out", required=True, metavar="FILE", help=f"write there, by its ending: {endings}")
    made.add_argument("--input", metavar="INDEX", help="of ranking: the input's number; default: the first traced")
    add_recorded(made, f"{DATA}; all inputs are traced", "trace this round; default: the last, of accuracy all")
    return made
