"""Whether all pictures of a set have their numbers on one scale: one that has not turns the others black."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .pixel_scale import Reading, spelled

BLACKENED = 16  # a picture that reaches less than one in so many of the scale is nearly black: 12 bits among 16
DIMMED = 4  # 12 bits among 14
LOOKED_AT = 128  # values of a picture, for whether they are fractions
PIXELS = 128  # a scale to so much holds pixels, not fractions


class Reach(NamedTuple):
    """How far from 0 the numbers of a picture go, `where` it stands, and whether they are fractions up to 1."""

    where: str
    top: float
    unit: bool


def reach_of(where: str, values: np.ndarray, low: float, high: float) -> Reach:
    """The reach of a picture whose `values` go from `low` to `high`."""
    top = max(abs(low), abs(high))
    unit = False
    if values.dtype.kind == "f" and 0.5 < top <= 1:
        step = values.size // LOOKED_AT | 1  # odd, so as not to meet the same column in every row
        unit = any(value % 1 for value in values.reshape(-1)[::step].tolist())
    return Reach(where, top, unit)


def misfits(reaches: Mapping[str, Sequence[Reach]], reading: Reading, training: bool) -> tuple[str, ...]:
    """Sentences about pictures that may have another scale than the rest, by kind of numbers.

    Of `training` pictures those are refused of which most would be nearly black because of a few, and those from 0 to
    1 among others; a few dark pictures among others may be just that. Of later ones those from 0 to 1 are said.

    Raises:
        InputError: they have several scales.
    """
    lines = []
    for kind, pictures in reaches.items():
        levels = reading.levels(kind)
        if levels is None:
            continue
        full = max(abs(levels.low), abs(levels.high))
        there = [picture for picture in pictures if picture.top]
        reached = max((picture.top for picture in there), default=0.0) if training else full
        black, others = _parted(there, full, reached, BLACKENED)
        units = [picture for picture in black if picture.unit and full >= PIXELS]
        if units and not training:
            lines.append(f"{_some(units)}, those of the training data to {spelled(full)}: nearly black")
        elif training and black and (units or len(black) > len(others)):
            raise InputError(
                f"pictures on different scales: {_both(black, others)}: on one scale those to {_top(black)} would be "
                "nearly black: write all on the same scale, or take out those on another"
            )
        elif training:
            dim, bright = _parted(there, full, reached, DIMMED)
            if len(dim) > len(bright):
                lines.append(f"pictures: {_both(dim, bright)}: are they on the same scale?")
            elif black:
                lines.append(
                    f"pictures: {_both(black, others)}: those to {_top(black)} are nearly black: if they are on "
                    "another scale, write all on the same"
                )
    return tuple(lines)


def _parted(some: Sequence[Reach], full: float, reached: float, parts: int) -> tuple[list[Reach], list[Reach]]:
    """Pictures that reach less than one in `parts` of the scale, which goes to `full`; and the others.

    The set may leave most of its scale empty, as it goes only as far as `reached`: then all are equally dark.
    """
    least = min(full, 2 * reached) / parts
    return [picture for picture in some if picture.top < least], [picture for picture in some if picture.top >= least]


def _both(low: Sequence[Reach], high: Sequence[Reach]) -> str:
    """How many have which values, the first of the fewer by name."""
    few, many = (low, high) if len(low) < len(high) else (high, low)
    named = few[0].where if len(few) == 1 else f"such as {few[0].where}"
    total = len(low) + len(high)
    return f"{len(many):,} of {total:,} have values to {_top(many)}, {len(few):,} ({named}) to {_top(few)}"


def _some(some: Sequence[Reach]) -> str:
    """How many have which values, the first by name."""
    if len(some) == 1:
        return f"{some[0].where} has values to {_top(some)}"
    return f"{len(some):,} pictures, such as {some[0].where}, have values to {_top(some)}"


def _top(some: Sequence[Reach]) -> str:
    return spelled(max(picture.top for picture in some))
