"""Tab completion behind the commands. Hydra completes what follows a program's name; here that is `provfl run`."""

import os
import re
from contextlib import redirect_stderr
from glob import escape, glob
from io import StringIO
from typing import TYPE_CHECKING

from ..config.tree import groups, options, variants
from . import COMMANDS
from .saying import say

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra


TABLE_FLAGS = (
    "--by", "--metric", "--method", "--scope", "--round", "--paired", "--format", "--tidy", "--out", "--help",
)  # fmt: skip


def complete(hydra: "Hydra", config_name: str, arguments: list[str]) -> None:
    """Answer `-sc install=SHELL`, `uninstall=SHELL` and `query=SHELL` (of the line in COMP_LINE) on stdout."""
    if not any(argument.startswith("query=") for argument in arguments):
        hydra.shell_completion(config_name, arguments)
        return
    line = os.environ.get("COMP_LINE", "")
    command, rest = split_line(line)
    if command != "run":
        say("\n".join(words(command, rest)) if "query=fish" in arguments else " ".join(words(command, rest)))
        return
    os.environ["COMP_LINE"] = f"provfl {rest}"
    try:
        with redirect_stderr(StringIO()):  # a line that is half typed is no error to show at a prompt
            hydra.shell_completion(config_name, arguments)
    except (Exception, SystemExit):
        return


def split_line(line: str) -> tuple[str, str]:
    """A line at the prompt as the command behind the program's name ("" while it is typed), and what follows it."""
    behind = re.sub(r"^\s*(\S*python[\d.]*\s+(-m\s+)?)?\S+\s*", "", line, count=1)
    typed = re.match(r"(\S+)\s+(.*)$", behind, re.DOTALL)
    return (typed[1], typed[2]) if typed else ("", behind)


def words(command: str, rest: str) -> list[str]:
    """What can stand next: a command; behind `ls` and `cp` groups and options; behind `table` folders and flags;
    behind `reproduce` the experiments."""
    start = "" if rest.endswith(" ") or not rest else rest.split()[-1]
    known = {
        "": list(COMMANDS),
        "ls": groups(),
        "cp": [f"{group}/{name}" for group in groups() for name in options(group)],
        "reproduce": [name for name in options("experiment") if variants("experiment", name)],
        "table": [*TABLE_FLAGS] if start.startswith("-") else glob(f"{escape(start)}*/"),
    }
    return [word for word in known.get(command, []) if word.startswith(start)]
