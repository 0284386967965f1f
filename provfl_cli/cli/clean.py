"""`provfl clean`: what the training cache holds, and deleting what is not needed any more, asked first."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import InputError, did_you_mean
from ..store.held_federations import HeldFederation, delete, delete_beside, held_federations, runs_of
from .arguments import parser, read, whole
from .doctor import cache_named
from .saying import complain, say

SHOWN = 12  # characters of a key
RUNS_SHOWN = 2


def main(arguments: list[str]) -> int:
    """Show what the cache holds; where something is chosen, ask and delete it."""
    made = parser(
        "clean",
        description="Lists the federations in the training cache: when they were used last, their size, and the runs "
        "below the working folder that trace them. With names or one of --older-than, --unused, --all, those are "
        "deleted, asked first. What a process has open stays. Runs keep their tables; what is deleted is trained "
        "again when a run needs it.",
    )
    made.add_argument("names", nargs="*", metavar="NAME", help="federations to delete: their first letters will do")
    made.add_argument("--older-than", metavar="DAYS", help="delete what was not used for so long")
    made.add_argument("--unused", action="store_true", help="delete what no run below this folder points to")
    made.add_argument("--all", action="store_true", help="delete everything")
    made.add_argument("--yes", action="store_true", help="do not ask")
    made.add_argument("--cache", metavar="DIR", help="the training cache; default: PROVFL_CACHE, or outputs/cache")
    made.add_argument("--runs", default=".", metavar="DIR", help="where to look for runs; default: the working folder")
    args = read(made, arguments)
    if args is None:
        return 0
    cache = cache_named(args.cache)
    if not cache.is_dir():
        raise InputError(f"{cache}: no training cache here: give it, --cache DIR")
    held = held_federations(cache)
    runs = runs_of(held, Path(args.runs))
    chosen = _chosen(args, held, runs)
    if chosen is None:
        _list(cache, held, runs)
        return 0
    code = _deleted(cache, chosen, runs, args.yes)
    gone = args.all and code == 0 and (chosen or args.yes) and not held_federations(cache)
    if gone and (size := delete_beside(cache)):
        say(f"and what was kept beside them: {size / 1e6:,.1f} MB of partitions and base models")
    return code


def _chosen(
    args: Namespace, held: Sequence[HeldFederation], runs: Mapping[str, Sequence[Path]]
) -> list[HeldFederation] | None:
    """What is to be deleted; None where nothing was asked for. Several conditions have to hold together."""
    if args.all and (args.names or args.unused or args.older_than is not None):
        raise InputError("--all is everything: leave the others out")
    if not (args.names or args.all or args.unused or args.older_than is not None):
        return None
    for name in args.names:
        fitting = [each for each in held if each.key.startswith(name)]
        if not fitting:
            raise InputError(f"{name}: no such federation in the cache, {did_you_mean(name, [e.key for e in held])}")
        if len(fitting) > 1:
            raise InputError(f"{name}: {len(fitting)} federations begin so: give more letters")
    chosen = [each for each in held if not args.names or each.key.startswith(tuple(args.names))]
    if args.older_than is not None:
        days = whole("older-than", args.older_than, 0)
        chosen = [each for each in chosen if each.days() >= days]
    return [each for each in chosen if not (args.unused and runs[each.key])]


def _list(cache: Path, held: Sequence[HeldFederation], runs: Mapping[str, Sequence[Path]]) -> None:
    if not held:
        say(f"{cache}: holds nothing")
        return
    for each in held:
        say(_line(each, runs[each.key]))
    say(f"\n{_sum(held)} in {cache}; provfl clean --unused, --older-than DAYS, NAME … or --all deletes (asked first)")


def _line(each: HeldFederation, runs: Sequence[Path]) -> str:
    days = each.days()
    age = f"{days:.0f} days ago" if days >= 2 else f"{days * 24:.0f} h ago"
    by = ", ".join(map(str, runs[:RUNS_SHOWN])) + (f" and {len(runs) - RUNS_SHOWN} more" * (len(runs) > RUNS_SHOWN))
    rounds = f"{each.rounds} round{'s' * (each.rounds != 1)}"
    words = [f"{each.key[:SHOWN]}  {each.size / 1e6:>9,.1f} MB  {age:>12}  {rounds:>10}"]
    words += [each.about] * bool(each.about)
    words += ["in use now"] * each.in_use
    words.append(f"runs: {by}" if by else "no run")
    return "  ".join(words)


def _sum(federations: Sequence[HeldFederation]) -> str:
    size = sum(each.size for each in federations)
    return f"{len(federations):,} federation{'s' * (len(federations) != 1)}, {size / 1e6:,.1f} MB"


def _deleted(cache: Path, chosen: Sequence[HeldFederation], runs: Mapping[str, Sequence[Path]], yes: bool) -> int:
    """Say what goes and what loses it, ask, delete; 1 where something could not be deleted."""
    if not chosen:
        say("nothing to delete")
        return 0
    for each in chosen:
        say(_line(each, runs[each.key]))
    losing = [run for each in chosen for run in runs[each.key]]
    if losing:
        say(
            f"\n{len(losing)} run{'s' * (len(losing) != 1)} point{'s' * (len(losing) == 1)} to these: tables and pages "
            "stay, but provfl trace needs the rounds (the same provfl run trains them again)"
        )
    if not yes and not _agreed(f"\ndelete {_sum(chosen)}? [y/N] "):
        say("nothing was deleted")
        return 0
    deleted, left = delete(cache, [each.key for each in chosen])
    say(f"deleted {_sum([each for each in chosen if each.key in deleted])}")
    if left:
        complain(f"left: {', '.join(key[:SHOWN] for key in left)}: a process has them open, or they cannot be deleted")
    return 1 if left else 0


def _agreed(question: str) -> bool:
    """Whether somebody at a terminal says yes; where nobody can, InputError says how to."""
    if not sys.stdin.isatty():
        raise InputError("nobody is there to be asked: --yes deletes without asking")
    say(question, end="")
    return sys.stdin.readline().strip().lower() in ("y", "yes")
