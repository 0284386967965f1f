"""Files of a data folder that would not be read: refused where examples would vanish, else said."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..config.schema import Dataset
from ..errors import InputError
from .listing import splits_named
from .split import Split
from .tables import FORMATS, column_names, input_columns

PACKED = frozenset({".gz", ".bz2", ".xz", ".zst"})
ARRAYS = frozenset({".npy", ".npz"})


def has_columns(file: Path, dataset: Dataset) -> bool:
    """Whether a table has the columns to read; one that cannot be read has none."""
    return {*input_columns(dataset), dataset.label_column} <= set(column_names(file, dataset))


def unpacked(file: Path) -> str | None:
    """The name of the table that is packed in a file, None where there is none."""
    inner = Path(file.stem)
    return inner.name if file.suffix.lower() in PACKED and inner.suffix.lower() in FORMATS else None


def check_tables(folder: Path, files: Sequence[Path], tables: Sequence[Path], dataset: Dataset) -> None:
    """Raise InputError where a table of another format than `tables`, or a packed one, would vanish.

    A packed JSON file counts where it names a split of its own: others are bookkeeping more often than data.
    """
    have = splits_named(str(part) for file in tables for part in file.parts)
    there, read = {file.name for file in tables}, set(tables)
    for file in files:
        if file in read:
            continue
        inner = unpacked(file)
        counts = inner is not None and (not inner.lower().endswith(".json") or splits_named(file.parts) - have)
        if counts and inner not in there:
            raise InputError(f"dataset.path={folder}: {file} is packed: unpack it, or move it out of the folder")
        if file.suffix.lower() in FORMATS and has_columns(folder / file, dataset):
            raise InputError(
                f"dataset.path={folder}: {file} would be left out beside {tables[0]}: one format is read: write both "
                "alike, or move it out of the folder"
            )


def unlisted(folder: Path, pictures: Sequence[Path], splits: Mapping[str, Split]) -> tuple[str, ...]:
    """A sentence about `pictures` of the folder that its tables do not name.

    Raises:
        InputError: they lie among class folders, whose pictures the tables name in part.
    """
    rows = [
        (cell, label)
        for split in splits.values()
        for (_, cell), label in zip(split.cells, split.labels, strict=True)
        if isinstance(cell, Path)
    ]
    named = {os.path.abspath(cell) for cell, _ in rows}
    missing = [file for file in pictures if os.path.abspath(folder / file) not in named]
    if missing and rows:  # the same files may have another name by a link
        named = {os.path.realpath(cell) for cell, _ in rows}
        missing = [file for file in missing if os.path.realpath(folder / file) not in named]
    if not missing:
        return ()
    are = "1 picture is" if len(missing) == 1 else f"{len(missing):,} pictures are"
    said = f"{are} in no table and left out, such as {missing[0]}"
    if _are_classes(rows):
        raise InputError(
            f"dataset.path={folder}: {said}, though pictures lie in folders of their classes: add them to the table, "
            "move them out of the folder, or take the table away to read all folders"
        )
    return (said,)


def _are_classes(rows: Iterable[tuple[Path, object]]) -> bool:
    """Whether pictures, by (file, label), lie in folders of their classes."""
    labels = defaultdict[Path, set[str]](set)
    for file, label in rows:
        if label is not None:
            labels[file.parent].add(str(label))
    if any({place.name} == own for place, own in labels.items()):
        return True
    return len(labels) > 1 and all(len(own) == 1 for own in labels.values())


def arrays(files: Iterable[Path]) -> tuple[str, ...]:
    """A sentence about arrays in a folder, which are read only where such a file is given itself."""
    array_files = [file for file in files if file.suffix.lower() in ARRAYS]
    if not array_files:
        return ()
    are = (
        f"{array_files[0]} is"
        if len(array_files) == 1
        else f"{len(array_files):,} files of arrays are, such as {array_files[0]},"
    )
    return (f"{are} left out: arrays are read from one .npz file (dataset.path=FILE.npz), not from a folder",)
