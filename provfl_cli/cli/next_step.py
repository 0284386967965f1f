"""What to type after a run."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from .folder import called
from .saying import say

WIDTH = 80  # letters of a line


def say_next(folder: Path) -> None:
    """Say what a run that has just ended can be asked."""
    run = called(folder)
    say("\nNext")
    _say_command(f"provfl trace {run} --verify ", "who pushed one, and what is it without them")
    _say_command(f"provfl report {run} --open  ", "all of it as a page")


def say_next_of_sweep(folder: Path) -> None:
    """The same of a sweep."""
    say("\nNext")
    _say_command(f"provfl report {shlex.quote(os.path.relpath(folder))} --open ", "its runs as a page")


def _say_command(command: str, what: str) -> None:
    """A command, and what it is for where that fits into a line."""
    line = f"  {command}   {what}"
    say(line if len(line) <= WIDTH else f"  {command}".rstrip())
