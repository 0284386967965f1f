"""What to type after a run."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from .folder import called
from .saying import say


def say_next(folder: Path) -> None:
    """Say what a run that has just ended can be asked."""
    run = called(folder)
    say("\nNext")
    say(f"  provfl trace {run} --verify    who pushed one prediction, and is it so without them")
    say(f"  provfl report {run} --open     all of it as a page")


def say_next_of_sweep(folder: Path) -> None:
    """The same of a sweep."""
    say(f"\nNext\n  provfl report {shlex.quote(os.path.relpath(folder))} --open    its runs as a page")
