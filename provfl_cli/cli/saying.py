"""What the command line says: the only place that prints, so that no text from data reaches a terminal as it came."""

import logging
import sys
from typing import TextIO

from ..harmless import harmless, harmless_lines

LONGEST = 4_000  # characters of a complaint, which may quote a name of any length


def say(text: str = "", *, end: str = "\n", to: TextIO | None = None) -> None:
    """Print `text`, control characters made visible, at once; `to` is stdout unless another is named."""
    _print(harmless_lines(text) + end, to if to is not None else sys.stdout)


def complain(message: str) -> None:
    """Say on stderr, in one line, what went wrong."""
    line = harmless(" ".join(message.split()))
    _print(f"provfl: {line if len(line) <= LONGEST else f'{line[:LONGEST]}…'}\n", sys.stderr)


def _print(text: str, to: TextIO) -> None:
    try:
        print(text, end="", file=to, flush=True)
    except UnicodeEncodeError:  # a terminal that knows few letters
        encoding = to.encoding or "ascii"
        print(text.encode(encoding, "replace").decode(encoding), end="", file=to, flush=True)


class LogFormatter(logging.Formatter):
    """Of a run's log file: lines that quote data cannot pass for others, nor for orders to a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as `logging` writes it, made harmless."""
        return harmless_lines(super().format(record))
