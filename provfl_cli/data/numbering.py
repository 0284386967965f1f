"""The labels of a dataset's splits, checked together, become class numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .labels import UNLABELLED, WHOLE, Classes, check_fractions, check_spelling, kind, read_written
from .split import Split

ROW = re.compile(r"(.*) row ([0-9]+)", re.DOTALL)


def numbered(splits: Mapping[str, Split], column: str, where: str) -> tuple[list[int], Classes, tuple[str, ...]]:
    """Number the labels of all splits, one split after the other; return also the classes, and notes for the user.

    Where a source names the classes, a whole number is an index of its own names and a text is a name. Else classes are
    the sorted labels: whole numbers by value, texts by their letters.

    Raises:
        InputError: labels that are missing, or neither whole numbers nor texts; of two kinds, or two spellings of one
            label; without a name where there are names.
    """
    labels: dict[str, Sequence[Any]] = {name: split.labels for name, split in splits.items()}
    if all(split.written for split in splits.values()):
        labels = dict(zip(labels, read_written(list(labels.values())), strict=True))
    for name, split in splits.items():
        _check_labels(split, labels[name], column, where)
    names = next((split.names for split in splits.values() if split.names), None)
    if names is not None:
        classes = Classes(names, indexed=True)
        numbers = [
            _by_name(label, splits[name].names or names, classes, f"{where}: column {column}")
            for name in splits
            for label in labels[name]
        ]
        return numbers, classes, ()
    _check_kinds(splits, labels, column, where)
    values = sorted({label for part in labels.values() for label in part})
    notes: tuple[str, ...] = ()
    if values and isinstance(values[0], str):
        check_spelling(values, f"{where}: column {column}")
        if any(split.written for split in splits.values()):
            check_fractions(values, f"{where}: column {column}")
            words = [value for value in values if not WHOLE.fullmatch(value)]
            if len(words) < len(values):
                notes = (f"labels in column {column} are texts, not whole numbers: {', '.join(words[:3])} among them",)
    elif values and values[0] < 0:
        raise InputError(
            f"{where}: column {column} holds {values[0]}: an unlabelled split, or not a label column: number the "
            "classes from 0, or name them"
        )
    classes = Classes(tuple(map(str, values)), indexed=False)
    position = {value: number for number, value in enumerate(values)}
    return [position[label] for part in labels.values() for label in part], classes, notes


def _by_name(label: int | str, own: tuple[str, ...], classes: Classes, where: str) -> int:
    """The number of a label whose source names its classes by `own`."""
    if isinstance(label, int) and not 0 <= label < len(own):
        reason = (
            "an unlabelled split, or not a label column" if label < 0 else f"but only {len(own)} class names are given"
        )
        raise InputError(f"{where} holds {label}{':' if label < 0 else ','} {reason}")
    number = classes.number(own[label] if isinstance(label, int) and own != classes.names else label)
    if number is None:
        name = own[label] if isinstance(label, int) else label
        raise InputError(f"{where} holds {name}, none of the class names: {classes.accepted(name)}")
    return number


def _check_labels(split: Split, labels: Sequence[Any], column: str, where: str) -> None:
    """Raise InputError for a label that is missing, or neither a whole number nor a text."""
    for row, label in enumerate(labels):
        if label is None or label == "":
            file, number = _place(split, row, where)
            raise InputError(f"{file}: column {column} has no label in row {number}: fill or remove it")
        if not isinstance(label, int | str):
            file, number = _place(split, row, where)
            raise InputError(
                f"{file}: column {column} holds {kind(label)} ({label} in row {number}): labels are whole numbers or "
                "texts"
            )


def _check_kinds(splits: Mapping[str, Split], labels: Mapping[str, Sequence[Any]], column: str, where: str) -> None:
    """Raise InputError where some labels are numbers and others texts; it says which are where."""
    kinds: dict[str, str] = {}
    for name, split in splits.items():
        for row, label in enumerate(labels[name]):
            own = kind(label)
            if own not in kinds:
                file, number = _place(split, row, where)
                kinds[own] = f"{name} holds {own} ({label!a} in {Path(file).name} row {number})"
    if len(kinds) > 1:
        raise InputError(f"{where}: column {column}: {', '.join(kinds.values())}: write all labels alike")


def _place(split: Split, row: int, where: str) -> tuple[str, int]:
    """File and row within it of one example."""
    place = split.cells[row][0] or where
    match = ROW.fullmatch(place)
    if match is not None:
        return match[1], int(match[2])
    return place, sum(cell[0] == place for cell in split.cells[:row])


def asked(split: Split, classes: Classes, column: str) -> list[int | None]:
    """Class numbers of labels that come after training, None where one is missing or -1.

    Raises:
        InputError: a label that is none of the classes.
    """
    (labels,) = read_written([split.labels]) if split.written else (split.labels,)
    numbers: list[int | None] = []
    for label in labels:
        if label is None or label == UNLABELLED:
            numbers.append(None)
            continue
        own = split.names
        known = isinstance(label, int) and own is not None and 0 <= label < len(own)
        meant = own[label] if known and own is not None else label
        number = classes.number(meant) if isinstance(meant, int | str) else None
        if number is None:
            raise InputError(f"column {column} holds {meant}: {classes.accepted(meant)}")
        numbers.append(number)
    return numbers
