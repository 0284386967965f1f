"""`provfl repair RUN --without CLIENTS`: the global model without some clients, and how good it is."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, did_you_mean
from ..imports import later
from ..reporting.terminal import make_console
from ..run.place import refuse_language_model, require_model_and_data, require_place
from ..store.recorded import is_recorded, read_recorded
from .arguments import check_out, listed, parser, read, whole
from .folder import named
from .recorded import DATA, add_recorded, refuse_recorded, refuse_run
from .saying import say
from .table import read_places

if TYPE_CHECKING:
    from ..comparison import repairs
    from ..reporting import repair as shown
    from ..reporting import repair_page
    from ..results import files
    from ..results import repair as results
    from ..run import open_recording, open_run, repair_ways, repairable, repaired
    from ..store import cache
else:  # torch comes with most of them, numpy with the others
    shown, files = later("provfl_cli.reporting.repair"), later("provfl_cli.results.files")
    repairs, repair_page = later("provfl_cli.comparison.repairs"), later("provfl_cli.reporting.repair_page")
    results, repaired = later("provfl_cli.results.repair"), later("provfl_cli.run.repaired")
    repairable, repair_ways = later("provfl_cli.run.repairable"), later("provfl_cli.run.repair_ways")
    open_recording, open_run = later("provfl_cli.run.open_recording"), later("provfl_cli.run.open_run")
    cache = later("provfl_cli.store.cache")

WAYS = ("refuse", "lineage", "finetune", "retrain")
BASES = WAYS[:2]
ENDING = ".safetensors"
MOST_ROUNDS = 10_000


def main(arguments: list[str]) -> int:
    """Repair, show what came of it, and write the model."""
    args = read(_parser(), arguments)
    if args is None:
        return 0
    args.run = named(args.run)
    _check(args)
    if args.table is not None:
        return _tabled(args, arguments)
    folder = args.run
    out = folder / results.FILE if args.out is None else Path(args.out)
    check_out(out)
    of = _opened(args)
    with cache.in_use(folder / "rounds"):
        asked = repair_ways.Asked(of.clients(args.without), args.how, args.first, args.rounds, args.after)
        repair, weights = repaired.repaired(of, asked, make_console(sys.stderr))
        way = repair.best or next((way for way in WAYS if way in weights), "")
        if not way:
            raise InputError("; ".join(f"--how {one.name}: {one.missing}" for one in repair.ways))
        repaired.write(out, weights[way], of, repair, way)
    if args.json:
        say(files.json_text(results.as_json(repair) | {"written": way, "out": str(out)}), end="")
        return 0
    make_console().print(shown.show(repair))
    say(f"{way} -> {out}")
    return 0


def _tabled(args: Namespace, arguments: list[str]) -> int:
    """Repair every run of a sweep, and write one table of them all; no model is written."""
    runs, absent = read_places([args.run])
    missing = [f"{run.name}: {run.reason}" for run in absent]
    done = []
    for number, run in enumerate(runs, 1):
        say(f"{number} of {len(runs)}: {run.folder}", to=sys.stderr)
        of = repairable.of_opened(open_run.open_run(run.folder, args.trust, args.data, args.checkpoint), repairable.RUN)
        with cache.in_use(run.folder / "rounds"):
            asked = repair_ways.Asked(of.clients(args.without), args.how, args.first, args.rounds, args.after)
            done.append((run, repaired.repaired(of, asked, make_console(sys.stderr))[0]))
    keys, rows = repairs.averaged(done)
    experiments = dict.fromkeys(run.chosen.get("experiment") for run in runs)
    commands = [f"provfl run experiment={name} hydra.sweep.dir={args.run}" for name in experiments if name is not None]
    commands.append(shlex.join(["provfl", "repair", *arguments]))
    files.write_text(Path(args.table), repair_page.page(keys, rows, commands, missing))
    say(f"{len(runs)} runs -> {args.table}")
    return 0


def _parser() -> ArgumentParser:
    made = parser(
        "repair",
        {"RUN": "RUN comes first: provfl repair outputs/DATE/TIME --without 0"},
        description="Makes the global model without some clients, measures what becomes of accuracy and fault, and "
        "writes it as safetensors.",
    )
    made.add_argument("run", metavar="RUN", help="a run's folder, or a recorded federation (provfl import)")
    made.add_argument("--without", metavar="CLIENTS", help="who goes, such as 0,4; faulty: those that the run planted")
    made.add_argument(
        "--how",
        metavar="WAYS",
        help=f"{' | '.join(WAYS)}, or several; default: all that are cheap (retrain: where it is in the cache)",
    )
    made.add_argument("--from", dest="first", metavar="ROUND", help="only what they sent from this round on")
    made.add_argument("--rounds", default="3", metavar="N", help="of finetune, by the others (default: 3)")
    made.add_argument(
        "--after", metavar="WAY", help=f"what it goes on from: {' | '.join(BASES)}; default: the better one, if known"
    )
    made.add_argument("--out", metavar="FILE", help="default: repaired.safetensors in the folder of RUN")
    made.add_argument("--table", metavar="FILE", help="of a sweep: repair all its runs and write one table, FILE.md")
    made.add_argument("--json", action="store_true", help="one JSON object, for scripts")
    run = made.add_argument_group("of a run (provfl run)")
    run.add_argument("--trust", action="store_true", help="it is mine: call its own model and methods, by their names")
    run.add_argument("--checkpoint", metavar="DIR", help="or a hub id: the architecture that its model started from")
    add_recorded(made, f"{DATA}; of a run: where its dataset is now, a folder, a file or a hub id")
    return made


def _check(args: Namespace) -> None:
    """Words and numbers made of texts; InputError for what is none, before anything is imported that takes seconds."""
    args.without = listed("--without", [] if args.without is None else [args.without])
    if not args.without:
        raise InputError("--without: who is to go? such as --without 0,4")
    args.how = listed("--how", [] if args.how is None else [args.how])
    for way in args.how:
        if way not in WAYS:
            raise InputError(f"--how {way}: {did_you_mean(way, WAYS)}")
    if args.after not in (None, *BASES):
        raise InputError(f"--after {args.after}: {did_you_mean(args.after, BASES)}")
    args.first = None if args.first is None else whole("from", args.first, 1)
    args.rounds = whole("rounds", args.rounds, 1, MOST_ROUNDS)
    if args.out is not None and Path(args.out).suffix != ENDING:
        raise InputError(f"--out {args.out}: must end in {ENDING}")
    if args.table is not None:
        _check_table(args)
        return
    folder = args.run
    require_place(folder)
    if not is_recorded(folder):
        refuse_recorded(args, "model", "tokenizer")
        return
    refuse_run(args, "trust", "checkpoint")
    if (args.model is not None or args.data is not None) and read_recorded(folder) is not None:
        refuse_language_model(folder, args.model, args.data)
        require_model_and_data(folder, args.model, args.data)


def _check_table(args: Namespace) -> None:
    check_out(Path(args.table))
    if Path(args.table).suffix != ".md":
        raise InputError(f"--table {args.table}: must end in .md")
    for name in ("out", "json"):
        if getattr(args, name):
            raise InputError(f"--{name} is for one model, --table for a sweep: one of them")
    refuse_recorded(args, "model", "tokenizer")


def _opened(args: Namespace) -> repairable.Repairable:
    folder = args.run
    if not is_recorded(folder):
        return repairable.of_opened(open_run.open_run(folder, args.trust, args.data, args.checkpoint), "run")
    if args.model is None:
        return repairable.of_rounds(folder)
    opened = open_recording.open_recorded(folder, args.model, args.data, None, args.tokenizer)
    recorded = read_recorded(folder)
    return repairable.of_opened(opened, recorded.source if recorded is not None else "recording")
