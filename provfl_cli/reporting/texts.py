"""Words that come from data, so that a console shows them and does nothing else with them."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

MARGIN = "│ "
WIDEST = 100  # columns: longer lines are hard to read
CONSIDERED = 2000  # characters: no text fills two lines with more, but for marks piled on one letter
LONG_WORD = 20  # characters: what is longer is cut, not left out

_DIRECTION = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))  # embeddings, overrides, isolates: they reorder a line
_NEUTRAL: dict[int, int | None] = {
    **{code: 0x2400 + code for code in range(0x20)},  # ESC becomes ␛
    0x7F: 0x2421,
    **dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000)), 0xFFFD),  # a second set of controls; half characters
    **dict.fromkeys((0x2028, 0x2029), ord(" ")),
    **dict.fromkeys(_DIRECTION),
}


def harmless(text: str) -> str:
    """`text` without the power to move a cursor, end a line, set a colour or turn the reading direction around.

    Control characters become their pictures. All else stays: accents, wide letters, right-to-left words, joined emoji.
    """
    return text.translate(_NEUTRAL)


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
