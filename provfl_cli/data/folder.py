"""A folder of tables or of pictures in class folders, or one file (`dataset.path`)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..config.schema import Dataset
from ..errors import InputError
from . import npz
from .left_out import ARRAYS, arrays, check_tables, has_columns, unlisted, unpacked
from .listing import listed, named, picture_splits, table_splits
from .picture_paths import Places
from .split import Split
from .splits import from_table, joined
from .tables import FORMATS, read_table

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
BOOKKEEPING = frozenset({"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "config.json"})


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
    not_read = arrays(files) if dataset.input == "image" else ()
    for suffix in FORMATS:
        tables = [file for file in files if file.suffix.lower() == suffix]
        if tables and (suffix == ".parquet" or not pictures or any(has_columns(path / x, dataset) for x in tables)):
            check_tables(path, files, tables, dataset)
            splits = _tables(path, tables, dataset)
            return _noted(splits, (*unlisted(path, pictures, splits), *not_read))
    if pictures:
        return _noted(_class_folders(path, pictures, files, empty), not_read)
    accepted = f"no {', '.join(suffix[1:] for suffix in FORMATS)} files"
    packed = next((file for file in files if unpacked(file) is not None), None)
    if packed is not None:
        raise InputError(f"dataset.path={path}: {packed} is packed: unpack it (gunzip, unxz ...)")
    if dataset.input != "image":
        raise InputError(f"dataset.path={path}: {accepted} in it")
    raise InputError(f"dataset.path={path}: neither parquet files nor pictures (CLASS/picture.png) in it, {accepted}")


def _file(file: Path, dataset: Dataset) -> dict[str, Split]:
    """Read one file."""
    suffix = file.suffix.lower()
    if suffix in FORMATS:
        split = from_table(read_table(file, dataset), str(file), Places(file.parent, file.parent), dataset)
        return {"train": replace(split, origin=file.name)}
    if suffix == ".npz" and dataset.input == "image":
        return npz.read(file)
    known = ", ".join([suffix[1:] for suffix in FORMATS] + (["npz"] if dataset.input == "image" else []))
    packed = "is packed: unpack it (gunzip, unxz ...)" if unpacked(file) else f"a file of another kind than {known}"
    raise InputError(f"dataset.path={file}: {packed}; give such a file, or a folder")


def _tables(folder: Path, files: list[Path], dataset: Dataset) -> dict[str, Split]:
    """Read tables, grouped by split."""
    splits = {}
    for name, members in table_splits(files, folder).items():
        read = []
        for file in members:
            place = folder / file
            places = Places(place.parent, folder)
            read.append(from_table(read_table(place, dataset), str(place), places, dataset, name != "train"))
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
    return _noted(splits, _unusual(folder, pictures, files, empty, splits))


def _noted(splits: dict[str, Split], notes: Sequence[str]) -> dict[str, Split]:
    """Splits with more to say of the training data."""
    return {
        name: replace(split, notes=(*split.notes, *notes)) if name == "train" else split
        for name, split in splits.items()
    }


def _unusual(
    folder: Path, pictures: Sequence[Path], files: Sequence[Path], empty: Sequence[Path], splits: dict[str, Split]
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
    for split in splits.values():
        notes.extend(_one_class([cell for _, cell in split.cells], folder))
    beside = [file for file in files if file.parent in holding and file not in shown]
    others = Counter(file.suffix.lower() or file.name for file in beside if file.suffix.lower() not in ARRAYS)
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        notes.append(f"files in class folders that are no pictures are left out: {kinds}")
    return notes


def _one_class(pictures: Sequence[Path], folder: Path) -> list[str]:
    """Which folders of the same name in different places are one class."""
    places: dict[str, dict[Path, None]] = defaultdict(dict)
    for file in pictures:
        places[file.parent.name][file.parent.relative_to(folder)] = None
    shared = {name: tuple(map(str, there)) for name, there in places.items() if len(there) > 1}
    if not shared:
        return []
    also = "" if len(shared) <= 3 else f", and {len(shared) - 3} more"
    named = ", ".join(f"{name} ({' and '.join(there[:3])})" for name, there in list(shared.items())[:3])
    return [f"folders of the same name are one class: {named}{also}"]


def _origin(files: Sequence[Path]) -> str:
    """The files of a split, for people."""
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def _above(files: Sequence[Path]) -> str:
    """The folder that a split's class folders lie in."""
    tops = sorted({file.parts[0] for file in files if len(file.parts) > 2})
    return f" in {', '.join(tops[:3])}" if tops and len(tops) <= 3 else ""
