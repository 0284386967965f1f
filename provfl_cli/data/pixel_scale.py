"""How the numbers of a set's pictures become pixels from 0 to 255: decided once, kept with a run, the same for all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from .pixels import Stored, Wanted, arranged

DEPTHS = (10, 12, 14, 16)  # bits that cameras and scanners have, beside 8
WHITE, BLACK = 255, 0


@dataclass(frozen=True)
class Levels:
    """Numbers from `low` to `high` become pixels from 0 to 255; of `bits` deep whole numbers the upper 8 are taken."""

    low: float
    high: float
    bits: int | None = None

    def pixels(self, values: np.ndarray) -> np.ndarray:
        """The numbers as uint8, in their shape; what lies outside is cut off."""
        if self.bits is not None and values.dtype.kind != "f":
            return (values.clip(0, 2**self.bits - 1) >> (self.bits - 8)).astype(np.uint8)
        if (self.low, self.high) == (0, 255) and values.dtype.kind != "f":
            return values.clip(0, 255).astype(np.uint8)
        span = self.high - self.low
        scaled: np.ndarray = (values.astype(np.float64) - self.low) * (255 / span if span else 0.0)
        pixels: np.ndarray = np.rint(scaled.clip(0, 255)).astype(np.uint8)
        return pixels


@dataclass(frozen=True)
class Reading:
    """What was decided for a set of pictures. None: it held nothing of that kind.

    Attributes:
        lists: scale of nested lists.
        integers: of whole numbers other than uint8, in files and arrays.
        fractions: of floating-point numbers, in files and arrays.
        background: what partly transparent pictures are drawn on, `WHITE` or `BLACK`.
        channels_first: whether arrays whose shape does not tell have their channels first.
        upright: pictures are turned as their EXIF orientation says.
        transparent: alpha is not left out.
        complete: nor is what `pixels.Wanted` says, which runs from before left out.
    """

    lists: Levels | None = None
    integers: Levels | None = None
    fractions: Levels | None = None
    background: int | None = None
    channels_first: bool | None = None
    upright: bool = True
    transparent: bool = True
    complete: bool = True

    @property
    def wanted(self) -> Wanted:
        """What is read of each picture."""
        return Wanted(self.upright, self.transparent, self.complete)

    def levels(self, kind: str) -> Levels | None:
        """The scale of a kind of numbers."""
        scale: Levels | None = getattr(self, kind)
        return scale


# Of runs from before a manifest said it: alpha and orientation were left out, of 16 bits the upper 8 were read.
AS_BEFORE = Reading(integers=Levels(0, 65535, 16), upright=False, transparent=False, complete=False)


@dataclass(frozen=True)
class Range:
    """The numbers of one kind that a set holds: the least, the largest, and whether all are whole by their type."""

    low: float
    high: float
    whole: bool

    def joined(self, other: Range | None) -> Range:
        """The range of both."""
        if other is None:
            return self
        return Range(min(self.low, other.low), max(self.high, other.high), self.whole and other.whole)


def range_of(stored: Stored, where: str) -> Range:
    """The range of one picture's numbers.

    Raises:
        InputError: some are NaN or infinite.
    """
    low, high = float(stored.values.min()), float(stored.values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(f"unreadable picture: {where}: holds NaN or infinite values: repair or remove it")
    return Range(low, high, stored.values.dtype.kind in "iu")


def levels_of(held: Range) -> Levels:
    """The scale for a set that holds these numbers.

    Whole numbers up to 255 are pixels as they are (only 0 and 1: black and white), larger ones data of 10, 12, 14 or 16
    bits, whichever holds them. Fractions from 0 to 1, from -1 to 1 and up to 255 are what they look like. All others
    are stretched from their least to their largest.
    """
    low, high = held.low, held.high
    if held.whole and low >= 0:
        if high <= 255:
            return Levels(0, 1) if high == 1 else Levels(0, 255)
        bits = next((depth for depth in DEPTHS if high < 2**depth), None)
        return Levels(low, high) if bits is None else Levels(0, 2**bits - 1, bits)
    if low >= 0 and high <= 1:
        return Levels(0, 1)
    if low >= 0 and 128 <= high <= 255:
        return Levels(0, 255)
    if -1 <= low < -0.5 and 0.5 < high <= 1:
        return Levels(-1, 1)
    return Levels(low, high)


def pixels_of(stored: Stored, reading: Reading, where: str) -> np.ndarray:
    """The pixels of one picture, uint8 `[height, width, 1 or 3]`.

    Raises:
        InputError: nothing tells where its channels stand, or its type lost what the set needs.
    """
    values, alpha = stored.values, stored.alpha
    if stored.layout == "either":
        if reading.channels_first is None:
            raise InputError(
                f"unreadable picture: {where}: values of shape {list(values.shape)} may have their channels first or "
                "last: give [height, width, channels] with more than 4 rows"
            )
        values, alpha = arranged(values, "first" if reading.channels_first else "last", reading.wanted)
    if stored.kind != "bytes":
        levels = reading.levels(stored.kind)
        assert levels is not None
        if stored.upper and levels.bits != 16:
            raise InputError(
                f"unreadable picture: {where}: a 16-bit colour picture that holds fewer bits, of which only the upper "
                "8 of 16 can be read: save it as PNG"
            )
        values = levels.pixels(values)
    if alpha is None or (alpha.size == 1 and reading.background is None):
        return values
    background = WHITE if reading.background is None else reading.background
    drawn: np.ndarray = np.rint(values * alpha + background * (1 - alpha)).astype(np.uint8)
    return drawn


def as_values(reading: Reading) -> dict[str, Any]:
    """Plain values, for a manifest."""
    return asdict(reading)


def from_values(values: Mapping[str, Any]) -> Reading:
    """What `as_values` made.

    Raises:
        ValueError, TypeError, KeyError: it is something else.
    """
    background, first = values["background"], values["channels_first"]
    if background not in (None, WHITE, BLACK) or first not in (None, True, False):
        raise ValueError("pictures are read in no known way")
    return Reading(
        lists=_levels(values["lists"]),
        integers=_levels(values["integers"]),
        fractions=_levels(values["fractions"]),
        background=background,
        channels_first=first,
        upright=bool(values["upright"]),
        transparent=bool(values["transparent"]),
        complete=bool(values.get("complete", False)),
    )


def _levels(values: Mapping[str, Any] | None) -> Levels | None:
    if values is None:
        return None
    low, high = float(values["low"]), float(values["high"])
    bits = None if values["bits"] is None else int(values["bits"])
    if not (math.isfinite(low) and math.isfinite(high)) or bits not in (None, *DEPTHS):
        raise ValueError("a scale of pixels that is none")
    return Levels(low, high, bits)


def scale_sentence(kind: str, held: Range, levels: Levels) -> str | None:
    """A sentence about how numbers of a kind became pixels; None where they are pixels as they stand."""
    if held.whole and (levels.low, levels.high) == (0, 255):
        return None
    what = "lists" if kind == "lists" else "pictures"
    numbers = "whole numbers" if held.whole else "fractions"
    depth = "" if levels.bits is None else f"read as {levels.bits}-bit data, "
    ends = f"{spelled(levels.low)} is black, {spelled(levels.high)} is white"
    return f"{what} with {numbers} from {spelled(held.low)} to {spelled(held.high)}: {depth}{ends}"


def spelled(value: float) -> str:
    """A number as people read it."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"
