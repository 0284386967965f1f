"""From a label, as data or a user write it, to the number of its class: the same way everywhere."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import InputError, did_you_mean

WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")  # a whole number as programs write it: 01 and 1.0 are texts
FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
UNLABELLED = -1  # what the hub's datasets have in splits whose labels are kept back


@dataclass(frozen=True)
class Classes:
    """The classes that a model tells apart.

    Attributes:
        names: of the classes, in the order of their numbers.
        indexed: whether a whole number in a label column is the number of its class, as it is where the data bring
            names (Hugging Face's ClassLabel), rather than its name. None: not known, so a name where there is one.
    """

    names: tuple[str, ...]
    indexed: bool | None = None

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in reversed(list(enumerate(self.names)))}

    def number(self, label: int | str) -> int | None:
        """Number of the class of a label, None where there is no such class.

        A text is a name. A whole number is an index of `names` where `indexed`; else it is a name, or an index where
        names are words.
        """
        if not (self.indexed and isinstance(label, int)):
            named = self._numbers.get(str(label))
            if named is not None or isinstance(label, str):
                return named
            if self.indexed is False and any(map(WHOLE.fullmatch, self.names)):
                return None
        return int(label) if 0 <= label < len(self.names) else None

    def typed(self, word: str) -> int | None:
        """Number of the class that a word on the command line names, or, where none has that name, numbers."""
        named = self.number(word)
        if named is None and WHOLE.fullmatch(word) and 0 <= int(word) < len(self.names):
            return int(word)
        return named

    def ambiguity(self, word: str) -> str | None:
        """What to type for the other class that a word may mean, where it is the name of one and the number of one."""
        named = self.number(word)
        if named is None or not WHOLE.fullmatch(word) or not 0 <= int(word) < len(self.names) or int(word) == named:
            return None
        other = self.names[int(word)]
        return f"{word} is the class of that name, number {named}; class {word} is named {other}: --target {other}"

    def accepted(self, label: object) -> str:
        """How to go on after a label that is none of the classes."""
        if self.indexed and isinstance(label, int):
            return f"numbers are those of the classes, 0 to {len(self.names) - 1}: {', '.join(self.names[:12])}"
        return did_you_mean(str(label), self.names)


def read_written(columns: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Labels of CSV files, which have no types: all of `columns` are whole numbers, or all are texts.

    Blanks around a label do not count; a label of nothing else is missing, None.
    """
    texts = [[label.strip() or None if isinstance(label, str) else label for label in column] for column in columns]
    values = {label for column in texts for label in column if label is not None}
    if values and all(isinstance(label, str) and WHOLE.fullmatch(label) for label in values):
        return [[None if label is None else int(label) for label in column] for column in texts]
    return [list(column) for column in texts]


def unlabelled(labels: Iterable[Any]) -> bool:
    """Whether there is no label in the whole split: nothing, or -1 everywhere."""
    values = set(labels)
    return bool(values) and all(value is None or str(value).strip() in ("", str(UNLABELLED)) for value in values)


def kind(label: object) -> str:
    """What a label is, in words."""
    if isinstance(label, bool):
        return "true or false"
    if isinstance(label, int):
        return "whole numbers"
    return "texts" if isinstance(label, str) else f"values of type {type(label).__name__}"


def check_spelling(labels: Iterable[str], where: str) -> None:
    """Raise InputError where two labels differ by blanks around them, in Unicode's form, or as numbers 1 and 1.0."""
    spelled: dict[str, str] = {}
    for label in sorted(set(labels)):
        plain = unicodedata.normalize("NFC", label.strip())
        other = spelled.setdefault(plain, label)
        if other != label:
            raise InputError(f"{where} holds {other!a} and {label!a}, which look the same: write them alike")
    for label in spelled:
        if "." in label and FLOAT.fullmatch(label) and float(label).is_integer():
            whole = str(int(float(label)))
            if whole in spelled:
                raise InputError(f"{where} holds {whole} and {label}, the same number: write them alike")


def check_fractions(labels: Iterable[str], where: str) -> None:
    """Raise InputError where all labels are numbers and some are fractions: they are values, not classes."""
    values = set(labels)
    if values and all(map(FLOAT.fullmatch, values)):
        fraction = next((label for label in sorted(values) if not float(label).is_integer()), None)
        if fraction is not None:
            raise InputError(f"{where} holds values of type float ({fraction}): labels are whole numbers or texts")
