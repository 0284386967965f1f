"""Texts of inputs, as much of them as a console has room for."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from ..harmless import harmless

MARGIN = "│ "
WIDEST = 100  # columns: longer lines are hard to read
CONSIDERED = 2000  # characters: no text fills two lines with more, but for marks piled on one letter
LONG_WORD = 20  # characters: what is longer is cut, not left out


@dataclass(frozen=True)
class Excerpt:
    """The beginning of a text in at most `lines` lines, broken between words, with an ellipsis where more follows."""

    text: str
    lines: int = 2

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(20, options.max_width), min(WIDEST, options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = max(min(options.max_width, WIDEST) - len(MARGIN), 2)
        whole = harmless(" ".join(self.text.split()))
        shown = list(Text(whole[:CONSIDERED]).wrap(console, room))
        for line in shown:
            line.rstrip()
        if len(whole) > CONSIDERED or len(shown) > self.lines:
            shown = shown[: self.lines]
            shown[-1] = _with_ellipsis(shown[-1], room)
        for line in shown:
            yield Text.assemble((MARGIN, "dim"), line, no_wrap=True, overflow="crop")


def _with_ellipsis(line: Text, room: int) -> Text:
    """`line` and an ellipsis; where they do not fit, without the last word, or the end of it where it is long."""
    if line.cell_len >= room:
        head, _, word = line.plain.rpartition(" ")
        if head and len(word) <= LONG_WORD:
            return Text(f"{head.rstrip()}…")
        line.truncate(room - 1, overflow="crop")
        line.rstrip()  # half a wide letter is left as a space
    return line.append("…")
