"""Values in the JSON files beside rounds, whoever wrote them: each of its type and within its range, or refused.

What is wrong is said by the name of the field: whoever reads a file adds which.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from ..checks import LONGEST_TEXT, excerpt

LARGEST_NUMBER = 2**31 - 1  # of clients and rounds: tables hold them in 32 bits
LARGEST_COUNT = 10**12  # training examples of one client
LARGEST_WEIGHT = 1e15  # share or weight of one client
LARGEST_MEASURE = 1e300  # of a loss, or of seconds


def read_format(content: Mapping[str, Any], readable: tuple[int, ...]) -> int:
    """The number of a file's format; ValueError where it is none of the `readable` ones."""
    number = value_of(content, "format")
    if type(number) is not int or number not in readable:
        raise ValueError(f"format {excerpt(number)} instead of {readable[-1]}")
    return number


def value_of(content: Mapping[str, Any], key: str) -> Any:
    """The value of a field that has to be there; ValueError where it is not."""
    if key not in content:
        raise ValueError(f"{key} is missing")
    return content[key]


def whole(value: Any, key: str, least: int = 0, most: int = LARGEST_NUMBER) -> int:
    """A whole number; ValueError for anything else, true and 2.0 among them, and where it is out of range."""
    if type(value) is not int or not least <= value <= most:
        raise wrong(key, value, f"a whole number from {least} to {most:,}")
    return value


def finite(value: Any, key: str, least: float, most: float) -> float:
    """A number; ValueError for anything else, NaN and infinity among them, and where it is out of range."""
    if type(value) not in (int, float) or not (math.isfinite(value) and least <= value <= most):
        raise wrong(key, value, f"a number from {least:g} to {most:g}")
    return float(value)


def finite_or_null(value: Any, key: str, least: float = -LARGEST_MEASURE, most: float = LARGEST_MEASURE) -> float:
    """As `finite`; NaN for null, which stands for a number that nobody knows."""
    return math.nan if value is None else finite(value, key, least, most)


def text(value: Any, key: str) -> str:
    """A text; ValueError for anything else, and for one that is too long to be shown."""
    if not isinstance(value, str):
        raise wrong(key, value, "a text")
    if len(value) > LONGEST_TEXT:
        raise wrong(key, value, f"a text of at most {LONGEST_TEXT:,} characters")
    return value


def listed(value: Any, key: str) -> list[Any]:
    """A list; ValueError for anything else."""
    if not isinstance(value, list):
        raise wrong(key, value, "a list")
    return value


def block(value: Any, key: str) -> dict[str, Any]:
    """An object; ValueError for anything else."""
    if not isinstance(value, dict):
        raise wrong(key, value, "an object")
    return value


def numbers(value: Any, key: str, most: int = LARGEST_NUMBER) -> tuple[int, ...]:
    """A list of whole numbers; ValueError for anything else."""
    return tuple(whole(entry, f"{key}[{at}]", 0, most) for at, entry in enumerate(listed(value, key)))


def texts(value: Any, key: str) -> tuple[str, ...]:
    """A list of texts; ValueError for anything else."""
    return tuple(text(entry, f"{key}[{at}]") for at, entry in enumerate(listed(value, key)))


def ascending(value: Any, key: str) -> tuple[int, ...]:
    """A list of whole numbers, each above the one before; ValueError for anything else."""
    values = numbers(value, key)
    if any(left >= right for left, right in pairwise(values)):
        raise wrong(key, value, "a list of ascending numbers")
    return values


def different(names: tuple[str, ...], key: str) -> tuple[str, ...]:
    """The texts themselves; ValueError where one is there twice."""
    if len(set(names)) < len(names):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise ValueError(f"{key}: {excerpt(twice)} is there twice")
    return names


def client_number(value: str, key: str) -> int:
    """The number of a client that stands as a name in JSON; ValueError where it is none."""
    if not re.fullmatch("0|[1-9][0-9]{0,9}", value):
        raise wrong(key, value, "the number of a client")
    return whole(int(value), key)


def wrong(key: str, value: Any, asked: str) -> ValueError:
    """What to raise for a field whose value is not what is `asked` for."""
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else excerpt(value)
    return ValueError(f"{key} is {shown or 'empty'}: it has to be {asked}")
