"""Small pictures in text: bars, shades and images, with colour where the console has it and without where not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style

from ..imports import later

if TYPE_CHECKING:
    from .. import pixels
else:
    pixels = later("provfl_cli.pixels")

EIGHTHS = " ▏▎▍▌▋▊▉"
SHADES = " ░▒▓█"
LOW, HIGH = (38, 50, 84), (120, 214, 190)  # from few to many


def bar(fraction: float, width: int) -> str:
    """A bar of `fraction` (0..1) of `width` characters, exact to an eighth of one, padded with spaces."""
    eighths = round(min(max(fraction, 0.0), 1.0) * width * 8)
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()).ljust(width)


def bars_from_zero(values: Sequence[float], width: int) -> list[str]:
    """A bar for each value: from zero to the left where it is negative, to the right where it is positive.

    All have one scale, and zero is at the same place: at the left end where none is negative, at the right end where
    none is positive. Each has `width` characters; to the right they are exact to an eighth of one, to the left to a
    half, since there are no other characters.
    """
    finite = [value for value in values if math.isfinite(value)]
    least, most = min(0.0, *finite, 0.0), max(0.0, *finite, 0.0)
    if most == least:
        return [" " * width] * len(values)
    sides = range(1, width + 1 - (most > 0)) if least < 0 else range(1)
    scales = [max(-least / left if left else 0.0, most / (width - left) if left < width else 0.0) for left in sides]
    scale = min(scales)  # of a character
    left = sides[scales.index(scale)]
    drawn = []
    for value in values:
        if not math.isfinite(value):
            drawn.append(" " * width)
        elif value >= 0:
            drawn.append(" " * left + bar(value / scale / (width - left) if width > left else 0.0, width - left))
        else:
            halves = max(round(-value / scale * 2), 1)
            drawn.append(("▐" * (halves % 2) + "█" * (halves // 2)).rjust(left)[-left:] + " " * (width - left))
    return drawn


def heat(fraction: float) -> Style:
    """Background for a value between none (0) and the most there is (1), with text that can be read on it."""
    low, high = np.array(LOW), np.array(HIGH)
    red, green, blue = np.rint(low + (high - low) * min(max(fraction, 0.0), 1.0)).astype(int)
    text = "black" if fraction > 0.55 else "#e8ecf4"
    return Style.parse(f"{text} on rgb({red},{green},{blue})")


def shade(fraction: float) -> str:
    """One character for the same value where there is no colour."""
    return SHADES[min(int(np.ceil(fraction * (len(SHADES) - 1))), len(SHADES) - 1)] if fraction > 0 else " "


def in_colour(console: Console) -> bool:
    """Whether the console shows enough colours for shades."""
    return not console.no_color and console.color_system in ("256", "truecolor")


@dataclass(frozen=True)
class Picture:
    """An image drawn with half blocks, two pixels a character.

    `pixels` uint8 `[height, width, channels]`, one channel (grey) or three; `columns` is the width in characters.
    Without colour each character is one of two brightnesses above and below, split at the middle of the image's range.
    """

    pixels: np.ndarray
    columns: int = 14

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(self.columns, self.columns)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        small = pixels.shrunk(self.pixels, self.columns)
        colour = in_colour(console)
        lit = _lit(small)
        for top in range(0, len(small), 2):
            for column in range(self.columns):
                if colour:
                    upper, lower = (_rgb(small[row, column]) for row in (top, top + 1))
                    yield Segment("▀", Style.parse(f"{upper} on {lower}"))
                else:
                    yield Segment(" ▀▄█"[int(lit[top, column]) + 2 * int(lit[top + 1, column])])
            yield Segment.line()


def _lit(small: np.ndarray) -> np.ndarray:
    grey = small.mean(axis=2)
    lit: np.ndarray = grey > (grey.min() + grey.max()) / 2
    return lit


def _rgb(pixel: np.ndarray) -> str:
    red, green, blue = pixel.tolist()
    return f"rgb({red},{green},{blue})"
