"""A folder of tables or of pictures in class folders, or one file (`dataset.path`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..config.schema import Dataset
from ..errors import InputError
from . import npz
from .listing import listed, named, picture_splits, splits_named, table_splits
from .split import Split
from .splits import from_table, joined
from .tables import FORMATS, column_names, input_columns, read_table

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
BOOKKEEPING = frozenset({"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "config.json"})
PACKED = frozenset({".gz", ".bz2", ".xz", ".zst"})


def read(path: Path, dataset: Dataset) -> dict[str, Split]:
    """Read the splits of `path`: a file, or a folder of tables as in a hub snapshot or of `[SPLIT/]CLASS/picture.png`.

    Tables are files of one of `tables.FORMATS`; of several formats the first is read. Beside pictures in class folders
    a table counts (unless it is parquet) where it has the columns that are asked for. A file on its own is a table,
    all of it the split train, or arrays (`.npz`, see `npz.read`). Which file belongs to which split: see `listing`.

    Raises:
        InputError: no such folder, nothing to read in it, a broken file, a missing column, files that would be left
            out without a word or belong to two splits.
    """
    if not path.exists():
        raise InputError(f"dataset.path={path}: no such folder")
    if not path.is_dir():
        return _file(path, dataset)
    files, empty = listed(path)
    # A hub snapshot keeps bookkeeping in hidden folders, and in files of these names.
    files = [file for file in files if file.name not in BOOKKEEPING]
    pictures = [file for file in files if file.suffix.lower() in PICTURES] if dataset.input == "image" else []
    for suffix in FORMATS:
        tables = [file for file in files if file.suffix.lower() == suffix]
        if tables and (suffix == ".parquet" or not pictures or any(_has_columns(path / x, dataset) for x in tables)):
            _check_left_out(path, files, tables, dataset)
            return _tables(path, tables, dataset)
    if pictures:
        return _class_folders(path, pictures, files, empty)
    accepted = f"no {', '.join(suffix[1:] for suffix in FORMATS)} files"
    packed = next((file for file in files if _unpacked(file) is not None), None)
    if packed is not None:
        raise InputError(f"dataset.path={path}: {packed} is packed: unpack it (gunzip, unxz ...)")
    if dataset.input == "text":
        raise InputError(f"dataset.path={path}: {accepted} in it")
    raise InputError(f"dataset.path={path}: neither parquet files nor pictures (CLASS/picture.png) in it, {accepted}")


def _file(file: Path, dataset: Dataset) -> dict[str, Split]:
    """Read one file."""
    suffix = file.suffix.lower()
    if suffix in FORMATS:
        split = from_table(read_table(file, dataset), str(file), file.parent, dataset)
        return {"train": replace(split, origin=file.name)}
    if suffix == ".npz" and dataset.input == "image":
        return npz.read(file)
    known = ", ".join([suffix[1:] for suffix in FORMATS] + (["npz"] if dataset.input == "image" else []))
    packed = "is packed: unpack it (gunzip, unxz ...)" if _unpacked(file) else f"a file of another kind than {known}"
    raise InputError(f"dataset.path={file}: {packed}; give such a file, or a folder")


def _unpacked(file: Path) -> str | None:
    """The name of the table that is packed in a file, None where there is none."""
    inner = Path(file.stem)
    return inner.name if file.suffix.lower() in PACKED and inner.suffix.lower() in FORMATS else None


def _has_columns(file: Path, dataset: Dataset) -> bool:
    """Whether a table has the columns to read; one that cannot be read has none."""
    return {*input_columns(dataset), dataset.label_column} <= set(column_names(file, dataset))


def _check_left_out(folder: Path, files: Sequence[Path], tables: Sequence[Path], dataset: Dataset) -> None:
    """Raise InputError where a split lies in a file of another format, or a packed one, so that it would vanish."""
    have = splits_named(str(part) for file in tables for part in file.parts)
    there, read = {file.name for file in tables}, set(tables)
    for file in files:
        if file in read or not splits_named(file.parts) - have:
            continue
        inner = _unpacked(file)
        if inner is not None and inner not in there:
            raise InputError(f"dataset.path={folder}: {file} is packed: unpack it, or move it out of the folder")
        if file.suffix.lower() in FORMATS and _has_columns(folder / file, dataset):
            raise InputError(
                f"dataset.path={folder}: {file} would be left out beside {tables[0]}: one format is read: write both "
                "alike, or move it out of the folder"
            )


def _tables(folder: Path, files: list[Path], dataset: Dataset) -> dict[str, Split]:
    """Read tables, grouped by split."""
    splits = {}
    for name, members in table_splits(files, folder).items():
        read = [
            from_table(read_table(folder / file, dataset), str(folder / file), folder, dataset, name != "train")
            for file in members
        ]
        splits[name] = replace(joined(read), origin=_origin(members))
    return splits


def _class_folders(
    folder: Path, pictures: list[Path], files: Sequence[Path], empty: Sequence[Path]
) -> dict[str, Split]:
    """Take each picture's class from the folder that it lies in, its split from a folder above that."""
    splits = {}
    for name, members in picture_splits(pictures, folder).items():
        cells = [(str(folder / file), folder / file) for file in members]
        labels = [file.parent.name for file in members]
        origin = f"{len(set(labels))} class folders{_above(members)}"
        splits[name] = Split(cells, labels, origin=origin)
    notes = tuple(_unusual(pictures, files, empty, splits))
    return {name: replace(split, notes=notes) if name == "train" else split for name, split in splits.items()}


def _unusual(
    pictures: Sequence[Path], files: Sequence[Path], empty: Sequence[Path], splits: dict[str, Split]
) -> list[str]:
    """What a user may not expect of a folder of pictures."""
    notes = []
    holding, shown = {file.parent for file in pictures}, set(pictures)
    if len(splits) == 1:
        classes = sorted({place.name for place in holding if named(place.name)})
        if classes:
            notes.append(f"taken as classes, not as splits, since pictures lie in them: {', '.join(classes)}")
    above = {parent for place in holding for parent in place.parents} | holding
    bare = sorted({place for place in (*empty, *(file.parent for file in files)) if place not in above})
    if bare:
        names = ", ".join(map(str, bare[:5])) + (", …" if len(bare) > 5 else "")
        notes.append(f"folders without pictures are no classes: {names}")
    others = Counter(file.suffix.lower() or file.name for file in files if file.parent in holding and file not in shown)
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        notes.append(f"files in class folders that are no pictures are left out: {kinds}")
    return notes


def _origin(files: Sequence[Path]) -> str:
    """The files of a split, for people."""
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def _above(files: Sequence[Path]) -> str:
    """The folder that a split's class folders lie in."""
    tops = sorted({file.parts[0] for file in files if len(file.parts) > 2})
    return f" in {', '.join(tops[:3])}" if tops and len(tops) <= 3 else ""
