"""Whether the shape of an array is one of a picture, and where its channels stand."""

from __future__ import annotations

import math

CHANNELS = (1, 3, 4)
ACCEPTED = "accepted are [height, width], and [height, width, channels] or [channels, height, width] with 1, 3 or 4"
NARROW = 4  # a picture of so few rows or columns ...
LONG = 16  # ... and so many times as many of the other is one that was flattened


def layout_of(shape: tuple[int, ...]) -> str:
    """Where the channels of an array of this shape stand: `first`, `last`, `either`; "" in two dimensions.

    Raises:
        ValueError: it is the shape of no picture, or of a flattened one.
    """
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"values of shape {list(shape)}: {_square(shape) or ACCEPTED}")
    if len(shape) == 2:
        _check_flattened(shape, [shape])
        return ""
    first, last = shape[0] in CHANNELS, shape[-1] in CHANNELS
    if not first and not last:
        raise ValueError(f"values of shape {list(shape)}: {ACCEPTED}")
    _check_flattened(shape, [*([shape[1:]] if first else []), *([shape[:2]] if last else [])])
    if first and last:
        return "either"
    return "first" if first else "last"


def is_strip(shape: tuple[int, ...]) -> bool:
    """Whether a height and width are those of a row or column of numbers rather than of a picture."""
    return min(shape) <= NARROW and max(shape) >= LONG * min(shape)


def _check_flattened(shape: tuple[int, ...], sides: list[tuple[int, ...]]) -> None:
    """Raise ValueError where all heights and widths that a shape may mean are those of strips."""
    if all(map(is_strip, sides)):
        raise ValueError(
            f"values of shape {list(shape)} are no picture but a row of numbers: "
            f"{_square(shape) or 'reshape them to [height, width]'}"
        )


def _square(shape: tuple[int, ...]) -> str | None:
    """How to make a picture of flattened values; None where they are those of no square."""
    values = math.prod(shape)
    side, coloured = math.isqrt(values), math.isqrt(values // 3)
    if side > 1 and side**2 == values:
        return f"reshape them to [{side}, {side}]"
    if coloured > 1 and 3 * coloured**2 == values:
        return f"reshape them to [{coloured}, {coloured}, 3] or [3, {coloured}, {coloured}]"
    return None
