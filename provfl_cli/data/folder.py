"""A folder of tables or of pictures in class folders, or one file (`dataset.path`)."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from ..config.schema import Dataset
from ..errors import InputError
from . import npz
from .splits import TEST_SPLITS, Split, from_table, input_columns, joined
from .tables import FORMATS, read_table

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
BOOKKEEPING = frozenset({"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"})
SPLIT_NAME = re.compile(rf"(train|{'|'.join(TEST_SPLITS)})(?:ing|uation)?(?![a-z])", re.IGNORECASE)


def read(path: Path, dataset: Dataset) -> dict[str, Split]:
    """Read the splits of `path`: a file, or a folder of tables as in a hub snapshot or of `[SPLIT/]CLASS/picture.png`.

    Tables are files of one of `tables.FORMATS`; of several formats the first is read. Beside pictures in class folders
    a table counts (unless it is parquet) where it has the columns that are asked for. A file on its own is a table,
    all of it the split train, or arrays (`.npz`, see `npz.read`).

    Raises:
        InputError: no such folder, nothing to read in it, a broken file, a missing column.
    """
    if not path.exists():
        raise InputError(f"dataset.path={path}: no such folder")
    if not path.is_dir():
        return _file(path, dataset)
    # A hub snapshot keeps bookkeeping in hidden folders, and in files of these names.
    files = sorted(
        file
        for file in path.rglob("*")
        if not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.name not in BOOKKEEPING
        and file.is_file()
    )
    pictures = [file for file in files if file.suffix.lower() in PICTURES] if dataset.input == "image" else []
    for suffix in FORMATS:
        found = [file for file in files if file.suffix.lower() == suffix]
        if found and (suffix == ".parquet" or not pictures or _has_columns(found[0], dataset)):
            return _tables(path, found, dataset)
    if pictures:
        return _class_folders(path, pictures)
    accepted = f"no {', '.join(suffix[1:] for suffix in FORMATS)} files"
    if dataset.input == "text":
        raise InputError(f"dataset.path={path}: {accepted} in it")
    raise InputError(f"dataset.path={path}: neither parquet files nor pictures (CLASS/picture.png) in it, {accepted}")


def _file(file: Path, dataset: Dataset) -> dict[str, Split]:
    """Read one file."""
    suffix = file.suffix.lower()
    if suffix in FORMATS:
        return {"train": from_table(read_table(file, dataset), str(file), file.parent, dataset)}
    if suffix == ".npz" and dataset.input == "image":
        return npz.read(file)
    known = ", ".join([suffix[1:] for suffix in FORMATS] + (["npz"] if dataset.input == "image" else []))
    raise InputError(f"dataset.path={file}: a file of another kind than {known}; give such a file, or a folder")


def _has_columns(file: Path, dataset: Dataset) -> bool:
    """Whether a table has the columns to read; one that cannot be read has none."""
    try:
        names = read_table(file, dataset).column_names
    except InputError:
        return False
    return {*input_columns(dataset), dataset.label_column} <= set(names)


def _tables(folder: Path, files: list[Path], dataset: Dataset) -> dict[str, Split]:
    """Read tables, grouped by the split that their names, or the names of their folders, tell."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        groups[_split_of(file.relative_to(folder).parts)].append(file)
    splits = {}
    for name, members in groups.items():
        parents = sorted({str(file.parent) for file in members})
        if len(parents) > 1:
            raise InputError(f"dataset.path={folder}: several datasets in it; choose one: {' or '.join(parents)}")
        splits[name] = joined([from_table(read_table(file, dataset), str(file), folder, dataset) for file in members])
    return splits


def _class_folders(folder: Path, files: list[Path]) -> dict[str, Split]:
    """Take each picture's class from the folder that it lies in, its split from a folder above that."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        *above, _ = file.relative_to(folder).parts
        if not above:
            raise InputError(f"dataset.path={folder}: {file.name} lies in no class folder; expected CLASS/{file.name}")
        groups[_split_of(tuple(above[:-1]))].append(file)
    return {
        name: Split([(str(file), file) for file in members], [file.parent.name for file in members])
        for name, members in groups.items()
    }


def _split_of(parts: tuple[str, ...]) -> str:
    """The split that a file's folders and name tell, `train` where they tell none."""
    matches = (SPLIT_NAME.match(part) for part in parts)
    return next((match[1].lower() for match in matches if match), "train")
