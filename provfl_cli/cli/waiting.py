"""A sign of life while libraries are imported, which takes seconds: a line on a terminal, wiped when it is over."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .saying import say

WIPE = "\r\x1b[2K"


@contextmanager
def waiting(doing: str) -> Iterator[None]:
    """Say on stderr what is being done, until the context is left; nothing where stderr is no terminal.

    No thread draws it: workers may be forked within.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    say(f"{doing} …", end="", to=sys.stderr)
    try:
        yield
    finally:
        with suppress(OSError):
            say("", end=WIPE, to=sys.stderr)
