"""What a setting may be. Each check raises InputError: one line with the key, its value and what is accepted.

A number's range stands with its field, `rounds: Annotated[int, Range(1, 100_000)]`, and `in_range` checks all of a
dataclass. The limits are far above what anybody uses and below what no machine could do.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import accumulate
from typing import Annotated, Any, get_args, get_origin, get_type_hints
from unicodedata import category

from .errors import InputError, did_you_mean

LONGEST_TEXT = 4096  # characters of a text; paths cannot be longer either
LONGEST_OVERRIDE = 100_000
MOST_DIGITS = 300  # of a number: more than a float has
LONGEST_LIST = 10_000  # values, or keys of a mapping
DEEPEST = 16  # blocks and lists inside each other
LARGEST = 2**31 - 1  # of numbers that are only handed on, such as options of a model of one's own
EXCERPT = 60  # characters of a value that a message repeats


@dataclass(frozen=True)
class Range:
    """The finite numbers from `least` to `most`, the ends left out where they are `open`; of a list, each value."""

    least: float
    most: float
    open_least: bool = False
    open_most: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low = self.least < value if self.open_least else self.least <= value
        high = value < self.most if self.open_most else value <= self.most
        return low and high  # nan is neither

    def __str__(self) -> str:
        low = f"above {_number(self.least)}" if self.open_least else f"{_number(self.least)} or more"
        high = f"below {_number(self.most)}" if self.open_most else f"at most {_number(self.most)}"
        return f"{low} and {high}"


FRACTION = Range(0, 1)  # of something, or a probability
POSITIVE_FRACTION = Range(0, 1, open_least=True)
BELOW_ONE = Range(0, 1, open_most=True)
BETWEEN_0_AND_1 = Range(0, 1, open_least=True, open_most=True)
COUNT = Range(1, 10_000_000)  # of examples, tokens, inputs
RATE = Range(0, 1e6, open_least=True)  # of learning, and other positive factors
CLIENT = Range(0, 99_999)  # its number
LABEL = Range(0, 999_999)  # its number
CLIENTS = Range(1, 100_000)
ROUNDS = Range(1, 100_000)
SEEDS = Range(0, 2**31 - 1)


def in_range(prefix: str, part: Any) -> None:
    """Raise InputError unless every number of the dataclass `part` is in the range declared with its field."""
    kind: type = type(part)
    for name, allowed in ranges(kind).items():
        check_number(f"{prefix}.{name}" if prefix else name, getattr(part, name), allowed)


def check_number(key: str, value: Any, allowed: Range) -> None:
    """Raise InputError unless `value` is in the range; of a list each value, of a mapping each one in it. Null passes.

    What is no number at all is none of its business: types are checked before.
    """
    if isinstance(value, Mapping):
        value = list(value.values())
    values = value if isinstance(value, list | tuple) else [value]
    for number in values:
        if isinstance(number, int | float) and number not in allowed:
            of_each = " each value" if values is value else ""
            raise InputError(f"{key}={excerpt(number)}:{of_each} must be {allowed}")


def check_option(key: str, value: Any) -> None:
    """Raise InputError for absurd numbers in an option that is only handed on; true and false are none."""
    if isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            check_option(key, inner)
    elif not isinstance(value, bool):
        check_number(key, value, Range(-LARGEST, LARGEST))


@cache
def ranges(kind: type) -> dict[str, Range]:
    """The ranges that a dataclass declares, by field."""
    declared = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        for note in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
            if isinstance(note, Range):
                declared[name] = note
    return declared


def check_plain(value: Any, key: str = "", depth: int = 0) -> None:
    """Raise InputError for what no setting can be, wherever it stands in `value`, a configuration of plain values.

    That is: a text too long or with control characters, a list too long, blocks too deep inside each other, a number
    that is not finite.
    """
    if isinstance(value, str):
        check_text(key, value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{key}={value}: must be a finite number")
    elif isinstance(value, Mapping | list | tuple):
        if depth > DEEPEST:
            raise InputError(f"{excerpt(key)}: is more than {DEEPEST} blocks or lists deep")
        if len(value) > LONGEST_LIST:
            raise InputError(f"{key}: holds {len(value):,} values, at most {LONGEST_LIST:,} are accepted")
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, inner in items:
            if isinstance(name, str):
                check_text(key or "the configuration", name)
            check_plain(inner, f"{key}.{name}" if key else str(name), depth + 1)


def check_text(key: str, value: str) -> None:
    """Raise InputError for a text that is too long, or holds what can be neither shown nor part of a path."""
    if len(value) > LONGEST_TEXT:
        raise InputError(
            f"{key}={excerpt(value)}: has {len(value):,} characters, at most {LONGEST_TEXT:,} are accepted"
        )
    for character in value:
        if category(character) in ("Cc", "Cs") and not (character == "\n" and key.startswith("experiment.")):
            raise InputError(
                f"{key}={excerpt(value)}: holds the control character U+{ord(character):04X}, leave it out"
            )


def check_override(text: str) -> None:
    """Raise InputError for an override that Hydra's parser would fail on: too long, too deep, too many digits."""
    key = excerpt(text)
    if len(text) > LONGEST_OVERRIDE:
        raise InputError(f"{key}: has {len(text):,} characters, at most {LONGEST_OVERRIDE:,} are accepted")
    if digits := re.search(rf"\d{{{MOST_DIGITS + 1},}}", text):
        raise InputError(f"{key}: a number of {len(digits[0]):,} digits, at most {MOST_DIGITS} are accepted")
    deepest = max(accumulate({"[": 1, "{": 1, "]": -1, "}": -1}.get(character, 0) for character in text), default=0)
    if deepest > DEEPEST:
        raise InputError(f"{key}: is {deepest} brackets deep, at most {DEEPEST} are accepted")


def excerpt(value: object, length: int = EXCERPT) -> str:
    """A value as a message repeats it: cut where it is long, control characters as escapes."""
    try:
        shown = str(value)
    except ValueError:  # a whole number of thousands of digits is not made a text
        return "a number of thousands of digits"
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in shown
    )
    return shown if len(shown) <= length else f"{shown[:length]}…"


def one_of(key: str, value: str, accepted: tuple[str, ...]) -> None:
    """Raise InputError unless `value` is one of the `accepted` words."""
    if value not in accepted:
        raise InputError(f"{key}={excerpt(value)}: {did_you_mean(str(value), accepted)}")


def _number(value: float) -> str:
    """A limit as it is typed."""
    return str(int(value)) if value == int(value) and abs(value) < 1e16 else f"{value:g}"


def require_flower() -> None:
    """Raise InputError where Flower or the Ray of its simulation is not installed; imports neither."""
    if find_spec("flwr") is None or find_spec("ray") is None:
        raise InputError(
            "engine=flower needs the package flwr with its simulation: pip install 'provfl[flower]' "
            "(scripts/provfl: PROVFL_EXTRAS=flower), or engine=local"
        )


def require_peft() -> None:
    """Raise InputError where PEFT, which makes adapters, is not installed; does not import it."""
    if find_spec("peft") is None:
        raise InputError(
            "model.adapter=lora needs the package peft: pip install 'provfl[peft]' "
            "(scripts/provfl: PROVFL_EXTRAS=peft), or model.adapter=null"
        )


def require_ray() -> None:
    """Raise InputError where Ray, which the shards of a trace are to work on, is not installed; does not import it."""
    if find_spec("ray") is None:
        raise InputError(
            "provenance.shard_on: a Ray cluster needs the package ray: pip install 'provfl[flower]', or "
            "provenance.shard_on=null for processes of this machine"
        )
