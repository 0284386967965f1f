"""Splits as they stand in files or tables, and how train and test become examples."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.schema import Dataset
from ..errors import InputError, did_you_mean
from .decode import Decoded, decode
from .examples import Examples, digest_content, stratified
from .likeness import blank

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

TEST_SPLITS = ("test", "validation", "valid", "val", "dev", "eval")
HOLD_OUT_SEED = 20231213  # fixed, as in `embedded`: what is held out does not depend on the run's seed


@dataclass(frozen=True)
class Split:
    """One split: (where it stands, encoded picture or text) and label of each; class names where the source has them.

    A label is a whole number or a string, as in the source.
    """

    cells: Sequence[tuple[str, Any]]
    labels: Sequence[Any]
    names: tuple[str, ...] | None = None


def from_table(table: pa.Table, where: str, folder: Path | None, dataset: Dataset) -> Split:
    """Read the columns `dataset.input_column` and `dataset.label_column` of a table.

    Pictures are structs of `bytes` and `path` (Hugging Face's form; a path counts from `folder`), encoded bytes, paths,
    or nested lists of pixel values. Texts are strings; those of several columns are joined by a space, empty ones left
    out. Class names come from Hugging Face's metadata in the schema.

    Raises:
        InputError: a column that is not there or there twice, or holds something else; a row without any text.
    """
    columns = input_columns(dataset)
    for key, column in (*(("input_column", column) for column in columns), ("label_column", dataset.label_column)):
        if column not in table.column_names:
            raise InputError(f"dataset.{key}={column}: no such column in {where}: {_columns(column, table)}")
        if table.column_names.count(column) > 1:
            raise InputError(f"dataset.{key}={column}: {where} has several columns of that name: rename one")
    features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = (features.get(dataset.label_column) or {}).get("names")
    values = [table.column(column).to_pylist() for column in columns]
    if dataset.input == "text":
        # No row is named: whatever can be wrong with a text is found here.
        cells = [(where, _text(parts, columns, where, row)) for row, parts in enumerate(zip(*values, strict=True))]
    else:
        cells = [
            (f"{where} row {row}", _cell(value, folder, f"{where} row {row}", columns[0]))
            for row, value in enumerate(values[0])
        ]
    return Split(cells, table.column(dataset.label_column).to_pylist(), tuple(names) if names else None)


def input_columns(dataset: Dataset) -> list[str]:
    """The columns that `dataset.input_column` names: one, or several to be joined."""
    return dataset.input_column if isinstance(dataset.input_column, list) else [dataset.input_column]


def joined(splits: Sequence[Split]) -> Split:
    """One split from the several files that it lies in."""
    cells = [cell for split in splits for cell in split.cells]
    return Split(cells, [label for split in splits for label in split.labels], splits[0].names)


def to_examples(splits: dict[str, Split], dataset: Dataset, size: int, where: str, origin: str) -> Examples:
    """Number the labels, hold out a test set where there is none, decode the pictures.

    Classes are numbered as the source's names say, else in the order of the sorted labels. `where` names the source in
    messages, `origin` in the result.

    Raises:
        InputError: no train split, labels that are missing or no labels, fewer than two classes, unreadable pictures.
    """
    import numpy as np

    train = splits.get("train")
    if train is None or not train.cells:
        raise InputError(f"{where}: no training examples (splits found: {', '.join(splits) or 'none'})")
    test = next((splits[name] for name in TEST_SPLITS if name in splits and splits[name].cells), None)
    names = train.names or (test.names if test else None)
    known = [*train.labels, *(test.labels if test else [])]
    numbers, label_names = _number(known, names, dataset.label_column, where)
    if len(set(numbers[: len(train.labels)])) < 2:
        raise InputError(
            f"{where}: column {dataset.label_column} holds one class only ({label_names[numbers[0]]}): "
            "two or more are needed, see dataset.label_column"
        )
    labels = np.asarray(numbers, dtype=np.int64)
    cells = [*train.cells, *(test.cells if test else [])]
    if test is None:
        count = round(len(labels) * dataset.test_fraction)
        if not 0 < count < len(labels):
            raise InputError(
                f"dataset.test_fraction={dataset.test_fraction}: leaves no training or no test example of {len(labels)}"
            )
        held_out = stratified(labels, count, np.random.default_rng(HOLD_OUT_SEED))
        rows = np.concatenate([np.setdiff1d(np.arange(len(labels)), held_out), held_out])
        cells, labels, border = [cells[row] for row in rows], labels[rows], len(labels) - count
    else:
        border = len(train.labels)
    # Both splits together, so that they agree in channels.
    digest = hashlib.sha256()
    decoded = None if dataset.input == "text" else decode(cells, size, digest)
    inputs = _texts(cells, digest) if decoded is None else decoded.pixels
    digest.update(labels.tobytes() + border.to_bytes(8, "little"))
    return Examples(
        train_inputs=inputs[:border],
        train_labels=labels[:border],
        test_inputs=inputs[border:],
        test_labels=labels[border:],
        label_names=label_names,
        fingerprint=digest.hexdigest()[:16],
        origin=origin,
        **({} if decoded is None else _picture_facts(decoded, cells)),
    )


def _picture_facts(decoded: Decoded, cells: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """What `Examples` says of pictures, `cells` in their order."""
    empty = blank(decoded.pixels, lambda number: cells[number][0])
    return {
        "reading": decoded.reading,
        "shapes": frozenset(decoded.shapes),
        "picture_lines": (*decoded.lines, *empty),
    }


def _number(
    labels: list[Any], names: tuple[str, ...] | None, column: str, where: str
) -> tuple[list[int], tuple[str, ...]]:
    """Class numbers of `labels`, and the classes' names."""
    whole = all(isinstance(label, int) for label in labels)
    if not whole and not all(isinstance(label, str) for label in labels):
        row, odd = next(((i, x) for i, x in enumerate(labels) if not isinstance(x, int | str)), (0, labels[0]))
        if odd is None:
            raise InputError(f"{where}: column {column} has no label in row {row}: fill or remove it")
        kind = type(odd).__name__
        raise InputError(f"{where}: column {column} holds values of type {kind}: labels are whole numbers or texts")
    values = sorted(set(labels))
    if whole and values[0] < 0:
        raise InputError(f"{where}: column {column} holds {values[0]}: an unlabelled split, or not a label column")
    if whole and names:
        if values[-1] >= len(names):
            raise InputError(
                f"{where}: column {column} holds {values[-1]}, but only {len(names)} class names are given"
            )
        return [int(label) for label in labels], names
    position = {value: number for number, value in enumerate(values)}
    return [position[label] for label in labels], tuple(map(str, values))


def _texts(cells: Sequence[tuple[str, Any]], digest: Any) -> np.ndarray:
    """Strings `[n]` of dtype object, taken by `digest`."""
    import numpy as np

    texts = np.array([text for _, text in cells], dtype=object)
    digest_content(digest, texts)
    return texts


def _text(parts: Sequence[Any], columns: list[str], where: str, row: int) -> str:
    """The text of one row: what its columns hold, joined by a space."""
    for column, part in zip(columns, parts, strict=True):
        if part is not None and not isinstance(part, str):
            kind = type(part).__name__
            raise InputError(f"dataset.input_column={column}: {where} row {row} holds a value of type {kind}, no text")
    text = " ".join(part for part in parts if part and not part.isspace())
    if not text:
        raise InputError(f"dataset.input_column={','.join(columns)}: {where} row {row} holds no text: remove it")
    return text


def _cell(value: Any, folder: Path | None, where: str, column: str) -> Any:
    """The picture of one row: encoded bytes, a file, or nested lists."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and folder is not None and os.path.isfile(folder / value):
        return folder / value
    if not isinstance(value, bytes | list):
        kind = "nothing" if value is None else f"a value of type {type(value).__name__}"
        raise InputError(f"dataset.input_column={column}: {where} holds {kind}, neither a picture nor the path of one")
    return value


def _columns(wrong: str, table: pa.Table) -> str:
    """What columns there are, the nearest first named."""
    near = did_you_mean(wrong, table.column_names)
    return near if near.startswith("accepted") else f"{near} (columns: {', '.join(table.column_names)})"
