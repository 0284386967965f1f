"""The console: whatever is printed on it is harmless, though parts of it come from data."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from ..harmless import harmless_lines


def make_console(file: TextIO | None = None, width: int | None = None, markup: bool = False) -> Console:
    """A console on stdout, or on `file`: 80 columns where nobody knows better, never a crash over a character.

    `markup`: whether `[bold]` in strings is obeyed; only for texts of our own.
    """
    if file is None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    return _Console(file=file, width=width, highlight=False, emoji=False, markup=markup)


class _Console(Console):
    """Shows control characters in place of obeying them, and falls silent when nobody reads any more.

    The second for `provfl run | head`: the run and its files matter more.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What rich makes of it; rich's own orders to the terminal are no text, and stay."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(harmless_lines(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
