"""`provfl ls [GROUP]`: the config groups, their options, and a line on each; `--keys`: every key.

`provfl ls FOLDER`: what a recording holds.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from ..config.flags import no_such_flag
from ..config.tree import block, blocks, described, groups, options
from ..errors import InputError, did_you_mean, nearest
from ..imports import later
from ..reporting.terminal import make_console
from ..store.recorded import is_recorded
from .saying import say

if TYPE_CHECKING:
    from ..config import reference
    from ..results import folders
    from . import recorded
else:  # all of the configuration comes with them
    reference, recorded = later("provfl_cli.config.reference"), later("provfl_cli.cli.recorded")
    folders = later("provfl_cli.results.folders")

USAGE = (
    "provfl ls [GROUP]: lists the config groups and their options, or those of one group\n"
    "provfl ls FOLDER: the clients and rounds of a recorded federation (provfl import, Flower, NVFlare)\n"
    "provfl ls --keys: every key with what is accepted, its default and its meaning, as Markdown"
)
KEYS = "--keys"
CLOSE = 0.6  # how like a name has to be: this may as well be a folder that is not there


def main(arguments: list[str]) -> int:
    """List every group, or the one that is named; for a plain block of keys, its lines with their comments."""
    if any(argument in ("-h", "--help") for argument in arguments):
        say(USAGE)
        return 0
    if arguments == [KEYS]:
        say(reference.reference())
        return 0
    for flag in (argument for argument in arguments if argument.startswith("-") and argument != KEYS):
        raise InputError(f"{no_such_flag(flag, [KEYS, '--help'])} ({USAGE.split(':')[0]})")
    if len(arguments) > 1:
        raise InputError(f"{' '.join(arguments)}: one group at most ({USAGE.split(':')[0]})")
    if arguments and block(arguments[0]):
        say(block(arguments[0]))
        return 0
    known = groups()
    for place in (Path(argument) for argument in arguments if argument not in known):
        if place.is_dir() and is_recorded(place):
            recorded.show_recording(place)
            return 0
        if place.is_dir() and any(folders.folders_below(place)):
            raise InputError(not_listed(place))
    for group in arguments:
        if group not in known and is_path(group) and not nearest(group.partition("/")[0], known):
            there = "no recorded federation" if Path(group).exists() else "no such folder"
            raise InputError(f"{group}: {there}; FOLDER is that of one: provfl ls FOLDER")
        if group not in known:
            raise InputError(f"{group}: no such config group or folder, {where_else(group, [*known, *blocks()])}")
    _show(arguments or known)
    if not arguments:
        say(f"choose by GROUP=OPTION; keys beside the groups: provfl ls {' | '.join(blocks())}")
    return 0


def not_listed(place: Path) -> str:
    """What to type for a folder of runs, of which this command has nothing to say."""
    if next(folders.folders_below(place)) == place:
        return f"{place}: is a run, no recorded federation: provfl trace {place}, provfl report {place}"
    return f"{place}: has runs in it, no recorded federation: provfl table {place}, provfl report {place}"


def is_path(name: str) -> bool:
    """Whether a name is that of a folder or looks like one: no config group holds these signs, or is a folder here."""
    return "/" in name or os.sep in name or name.startswith((".", "~")) or Path(name).exists()


def where_else(name: str, known: list[str]) -> str:
    """What to type for a group that there is not: the group of an option of that name, or the nearest name."""
    option = name.rpartition("/")[2].removesuffix(".yaml")
    holders = [group for group in groups() if option.casefold() in map(str.casefold, options(group))]
    if holders:
        return f"{option} is an option of {' and '.join(holders)}: provfl ls {' or provfl ls '.join(holders)}"
    block, _, key = name.partition(".")
    if key and block in (*groups(), *blocks()):
        return f"its key stands in {block}: provfl ls {block}"
    return did_you_mean(name if nearest(name, known, CLOSE) else "", known)


def _show(chosen: list[str]) -> None:
    table = Table("group", "option", "what it is", box=box.SIMPLE_HEAD, caption="* taken when nothing is said")
    for group in chosen:
        for number, option in enumerate(described(group)):
            name = f"[bold]{option.name} *[/]" if option.default else option.name
            table.add_row(group if number == 0 else "", name, escape(option.summary))
        table.add_section()
    # Into a pipe every option keeps its own line, however long.
    make_console(width=None if sys.stdout.isatty() else 200, markup=True).print(table)
