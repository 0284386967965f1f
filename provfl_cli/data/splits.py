"""How splits are read from files or tables, and how train and test become examples."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from ..config.schema import Dataset
from ..errors import InputError
from .decode import DecodedPictures, decode
from .dialogue import array_of, as_texts, of_row
from .examples import Examples, digest_content, stratified
from .labels import unlabelled
from .likeness import blank
from .numbering import numbered
from .picture_paths import Places
from .split import Split
from .tables import Table, input_columns

TEST_SPLITS = ("test", "validation", "valid", "val", "dev", "eval")
HOLD_OUT_SEED = 20231213  # fixed, as in `embedded`: what is held out does not depend on the run's seed


def from_table(table: Table, where: str, places: Places | None, dataset: Dataset, unlabelled: bool = False) -> Split:
    """Read the columns `dataset.input_column` and `dataset.label_column` of a table.

    Pictures are structs of `bytes` and `path` (Hugging Face's form), encoded bytes, paths (of files in `places`), or
    nested lists of pixel values. Texts are strings; those of several columns are joined by a space, empty ones left
    out. Prompts with responses: see `dialogue.of_row`. Where `unlabelled`, the label column may be missing, and all
    labels are.

    Raises:
        InputError: a column that is not there or there twice, or holds something else; a row without any text.
    """
    columns, target = input_columns(dataset), dataset.label_column
    labelled = target in table.names or not (unlabelled and _nearest(target, table.names, 0.75) is None)
    labelled = labelled and target != ""  # nothing is looked for
    required = [*(("input_column", column) for column in columns), *([("label_column", target)] if labelled else [])]
    for key, column in required:
        if column not in table.names:
            raise InputError(f"dataset.{key}={column}: no such column in {where}: {_columns(column, table)}")
        if table.names.count(column) > 1:
            raise InputError(f"dataset.{key}={column}: {where} has several columns of that name: rename one")
    values = [table.columns[column] for column in columns]
    if dataset.input == "text":
        # No row is named: whatever can be wrong with a text is found here.
        cells: list[tuple[str, Any]] = [
            (where, _text(parts, columns, where, row)) for row, parts in enumerate(zip(*values, strict=True))
        ]
    elif dataset.input == "dialogue":
        cells = [
            (where, of_row(dict(zip(columns, parts, strict=True)), dataset.response_column, f"{where} row {row}"))
            for row, parts in enumerate(zip(*values, strict=True))
        ]
    else:
        cells = [
            (f"{where} row {row}", _cell(value, places, f"{where} row {row}", columns[0]))
            for row, value in enumerate(values[0])
        ]
    labels = table.columns[target] if labelled else [None] * table.rows
    return Split(cells, labels, table.class_names, table.written, notes=table.notes)


def joined(splits: Sequence[Split]) -> Split:
    """One split from the several files that it lies in.

    Raises:
        InputError: files whose class names differ.
    """
    names = {split.names for split in splits if split.cells}
    if len(names) > 1:
        listed = " and ".join(
            "none" if classes is None else "(" + ", ".join(classes[:5]) + ")" for classes in list(names)[:2]
        )
        raise InputError(f"{splits[0].cells[0][0]}: the files of one split have different class names: {listed}")
    cells = [cell for split in splits for cell in split.cells]
    labels = [label for split in splits for label in split.labels]
    notes = tuple(note for split in splits for note in split.notes)
    return Split(cells, labels, splits[0].names, splits[0].written, notes=notes)


def to_examples(splits: dict[str, Split], dataset: Dataset, size: int, where: str, origin: str) -> Examples:
    """Number the labels, hold out a test set where there is none, decode the pictures.

    Classes are numbered by `numbering.numbered`. A test split without any label (-1 throughout, as GLUE's) is left out.
    `where` names the source in messages, `origin` in the result.

    Raises:
        InputError: no train split, labels that are missing or no labels, fewer than two classes, unreadable pictures.
    """
    train = splits.get("train")
    if train is None or not train.cells:
        raise InputError(f"{where}: no training examples (splits found: {', '.join(splits) or 'none'})")
    labelled = [name for name in TEST_SPLITS if name in splits and splits[name].cells]
    unlabelled_splits = [name for name in labelled if unlabelled(splits[name].labels)]
    chosen = next((name for name in labelled if name not in unlabelled_splits), None)
    test = splits[chosen] if chosen else None
    used = {"train": train, **({chosen: test} if chosen and test else {})}
    numbers, classes, notes = numbered(used, dataset.label_column, where)
    label_names = classes.names
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
    decoded = decode(cells, size, digest) if dataset.input == "image" else None
    if decoded is not None:
        inputs = decoded.pixels
    else:
        inputs = _texts(cells, digest) if dataset.input == "text" else _dialogues(cells, digest)
    digest.update(labels.tobytes() + border.to_bytes(8, "little"))
    return Examples(
        train_inputs=inputs[:border],
        train_labels=labels[:border],
        test_inputs=inputs[border:],
        test_labels=labels[border:],
        label_names=label_names,
        fingerprint=digest.hexdigest()[:16],
        origin=origin,
        indexed=classes.indexed,
        lines=(
            _described(splits, chosen, unlabelled_splits),
            *(note for split in used.values() for note in split.notes),
            *notes,
            *_untested(label_names, labels[border:]),
        ),
        **({} if decoded is None else _picture_facts(decoded, cells)),
    )


def _picture_facts(decoded: DecodedPictures, cells: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """What `Examples` says of pictures, `cells` in their order."""
    empty = blank(decoded.pixels, lambda number: cells[number][0])
    return {
        "reading": decoded.reading,
        "shapes": frozenset(decoded.shapes),
        "picture_lines": (*decoded.lines, *empty),
    }


def _described(splits: Mapping[str, Split], test: str | None, unlabelled_splits: Collection[str]) -> str:
    """Which files serve as which split, and what is left out."""

    def of(name: str, role: str) -> str:
        split = splits[name]
        files = split.origin or name
        return f"{role} = {files} ({len(split.cells):,})"

    parts = [of("train", "train")]
    parts.append(of(test, "test") if test else "test = held out of train (dataset.test_fraction)")
    for name in splits:
        if name not in ("train", test):
            parts.append(f"left out: {of(name, name)}{', which has no labels' if name in unlabelled_splits else ''}")
    return f"splits: {', '.join(parts)}"


def _untested(names: tuple[str, ...], labels: np.ndarray) -> tuple[str, ...]:
    """Which labels the test set lacks."""
    missing = [name for number, name in enumerate(names) if number not in set(labels.tolist())]
    return (f"labels without a test example: {', '.join(missing)}",) if missing else ()


def _texts(cells: Sequence[tuple[str, Any]], digest: Any) -> np.ndarray:
    """Strings `[n]` of dtype object, taken by `digest`."""
    texts = np.array([text for _, text in cells], dtype=object)
    digest_content(digest, texts)
    return texts


def _dialogues(cells: Sequence[tuple[str, Any]], digest: Any) -> np.ndarray:
    """Dialogues `[n]` of dtype object, taken by `digest`."""
    dialogues = array_of(dialogue for _, dialogue in cells)
    digest_content(digest, as_texts(dialogues))
    return dialogues


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


def _cell(value: Any, places: Places | None, where: str, column: str) -> Any:
    """The picture of one row: encoded bytes, a file, or nested lists."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and places is not None and (file := places.find(value, where)) is not None:
        return file
    if not isinstance(value, bytes | list):
        kind = "nothing" if value is None else f"a value of type {type(value).__name__}"
        raise InputError(f"dataset.input_column={column}: {where} holds {kind}, neither a picture nor the path of one")
    return value


def _nearest(wrong: str, names: Sequence[str], likeness: float) -> str | None:
    """The column that was probably meant: capitals and blanks around a name do not count."""
    plain = {name.strip().lower(): name for name in reversed(names)}
    near = get_close_matches(wrong.strip().lower(), plain, n=1, cutoff=likeness)
    return plain[near[0]] if near else None


def _columns(wrong: str, table: Table) -> str:
    """What columns there are, the nearest first named."""
    near, names = (
        _nearest(wrong, table.names, 0.5),
        [name if len(name) <= 40 else name[:39] + "…" for name in table.names],
    )
    there = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    if near is not None:
        return f"did you mean {near}? (columns: {there})"
    return f"accepted: {there}{'; the first line of such a file has to name its columns' if table.written else ''}"
