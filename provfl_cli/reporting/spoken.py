"""A response in a terminal: its tokens in the colours of those who pushed them, below them a letter for each client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from ..harmless import harmless
from ..results.response import TracedTokens

MARGIN = "│ "
WIDEST = 100  # columns: longer lines are hard to read
LONGEST = 2_000  # tokens shown
PART, END = "◦", "∎"  # of a token that adds no text of its own: part of a character, the end of the response
NOBODY, ANOTHER = "·", "+"
# Okabe and Ito's colours, told apart by colour-blind readers, with text on them that can be read on each.
COLOURS = ("black on #56B4E9", "black on #E69F00", "black on #2FB58D", "black on #F0E442", "black on #CC79A7",
           "white on #B34700", "white on #0062A0", "black on #B0B0B0")  # fmt: skip


def top_clients(values: np.ndarray) -> np.ndarray:
    """The column of the client that pushed each token most, int64 `[tokens]`; -1 where nobody pushed it."""
    if not values.shape[1]:
        return np.full(len(values), -1)
    best: np.ndarray = values.argmax(axis=1)
    return np.where(values.max(axis=1, initial=0.0) > 0, best, -1)


def _tops(spoken: Sequence[TracedTokens], span: tuple[int, int] | None) -> np.ndarray:
    """Who is on top of each token of the responses; of the first those in the span alone."""
    parts = [top_clients(tokens.values) for tokens in spoken]
    return np.concatenate([parts[0][slice(*(span or (None,)))], *parts[1:]])


def letters_of(spoken: Sequence[TracedTokens], span: tuple[int, int] | None = None) -> dict[int, str]:
    """A letter for each column that is on top of a token, those on top of most first; behind Z all are `+`.

    Of the first response tokens outside of `span` do not count.
    """
    tops = _tops(spoken, span)
    columns, counts = np.unique(tops[tops >= 0], return_counts=True)
    order = np.lexsort((columns, -counts))
    return {
        int(columns[at]): ascii_uppercase[place] if place < len(ascii_uppercase) else ANOTHER
        for place, at in enumerate(order)
    }


def shown_token(text: str, last: bool, ends: bool) -> str:
    """What stands for a token: its text made harmless; a mark where it adds nothing that has a width."""
    if last and ends and not text:
        return END
    shown = harmless(text)
    return shown if cell_len(shown) else PART + shown


@dataclass(frozen=True)
class Spoken:
    """The tokens of a response, broken between tokens; below each line the letters of the clients on top.

    `letters` and the colours are those of columns of `tokens.values`; tokens outside of `span` are dim.
    """

    tokens: TracedTokens
    letters: Mapping[int, str]
    span: tuple[int, int] | None = None

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(20, options.max_width), min(WIDEST, options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = max(min(options.max_width, WIDEST) - len(MARGIN), 4)
        for pieces in self._lines(room):
            above, below = Text.assemble((MARGIN, "dim")), Text.assemble((MARGIN, "dim"))
            for shown, letter, style in pieces:
                above.append(shown, style=style)
                width = cell_len(shown)
                below.append(letter, style="bold" if letter.isalpha() else "dim")
                below.append((" " if letter == " " else "─") * (width - 1), style="dim")
            for line in (above, below):
                line.no_wrap, line.overflow = True, "crop"
                yield line
        if len(self.tokens.texts) > LONGEST:
            yield Text(f"{MARGIN}… and {len(self.tokens.texts) - LONGEST:,} more tokens (--json)", style="dim")

    def _lines(self, room: int) -> Iterator[list[tuple[str, str, str]]]:
        """Text, letter and style of the tokens of each line."""
        line, used = list[tuple[str, str, str]](), 0
        tops = top_clients(self.tokens.values)
        for number, text in enumerate(self.tokens.texts[:LONGEST]):
            shown = shown_token(text, number == len(self.tokens.texts) - 1, self.tokens.ends)
            if cell_len(shown) > room:
                shown = f"{set_cell_size(shown, room - 1).rstrip()}…"
            if line and used + cell_len(shown) > room:
                yield line
                line, used = [], 0
            top = int(tops[number])
            within = self.span is None or self.span[0] <= number < self.span[1]
            letter = (self.letters[top] if top >= 0 else NOBODY) if within else " "
            line.append((shown, letter, colour(letter) if within else "dim"))
            used += cell_len(shown)
            if text.endswith("\n"):
                yield line
                line, used = [], 0
        if line:
            yield line


def colour(letter: str) -> str:
    """The style of tokens with that letter; the first eight have colours of their own."""
    place = ascii_uppercase.find(letter)
    return COLOURS[place] if 0 <= place < len(COLOURS) else ("underline" if letter != NOBODY else "")


@dataclass(frozen=True)
class Legend:
    """Who the letters are, and of how many tokens each is on top: so many of them in a line as have room.

    All as of `letters_of`.
    """

    letters: Mapping[int, str]
    names: Sequence[str]
    spoken: Sequence[TracedTokens]
    span: tuple[int, int] | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text()
        for piece in self._pieces():
            if line and line.cell_len + 2 + piece.cell_len > min(options.max_width, WIDEST):
                yield line
                line = Text()
            line = Text.assemble(line, "  ", piece) if line else piece
        yield line

    def _pieces(self) -> Iterator[Text]:
        tops = _tops(self.spoken, self.span)
        counts = dict.fromkeys(self.letters.values(), 0)
        for column, letter in self.letters.items():
            counts[letter] += int((tops == column).sum())
        named = {letter: column for column, letter in self.letters.items()}
        for letter, count in counts.items():
            who = "others" if letter == ANOTHER else f"client {harmless(self.names[named[letter]])}"
            yield Text.assemble((f" {letter} ", colour(letter)), f" {who}, {count:,} of {len(tops):,} tokens")
        if nobody := int((tops < 0).sum()):
            yield Text(f" {NOBODY}  nobody pushed it, {nobody:,}")
        if any(tokens.ends for tokens in self.spoken):
            yield Text(f" {END}  end of the response", style="dim")
        if any(map(_has_part, self.spoken)):
            yield Text(f" {PART}  part of a character", style="dim")


def _has_part(tokens: TracedTokens) -> bool:
    last = len(tokens.texts) - 1
    return any(
        shown_token(text, at == last, tokens.ends).startswith(PART) and not harmless(text).startswith(PART)
        for at, text in enumerate(tokens.texts)
    )
