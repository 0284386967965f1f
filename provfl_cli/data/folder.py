"""A folder of parquet files or of pictures in class folders (`dataset.path`)."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from ..config.schema import Dataset
from ..errors import InputError
from .splits import TEST_SPLITS, Split, from_table, joined

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
SPLIT_NAME = re.compile(rf"(train|{'|'.join(TEST_SPLITS)})(?:ing|uation)?(?![a-z])", re.IGNORECASE)


def read(folder: Path, dataset: Dataset) -> dict[str, Split]:
    """Read the splits of `folder`: parquet as in a hub snapshot, else pictures as `[SPLIT/]CLASS/picture.png`.

    Raises:
        InputError: no such folder, nothing to read in it, a broken file, a missing column.
    """
    if not folder.exists():
        raise InputError(f"dataset.path={folder}: no such folder")
    if not folder.is_dir():
        raise InputError(f"dataset.path={folder}: a file; give the folder that it lies in")
    # A hub snapshot keeps bookkeeping in hidden folders.
    files = sorted(
        file
        for file in folder.rglob("*")
        if not any(part.startswith(".") for part in file.relative_to(folder).parts) and file.is_file()
    )
    parquet = [file for file in files if file.suffix.lower() == ".parquet"]
    if parquet:
        return _tables(folder, parquet, dataset)
    pictures = [file for file in files if file.suffix.lower() in PICTURES]
    if pictures:
        return _class_folders(folder, pictures)
    raise InputError(f"dataset.path={folder}: neither parquet files nor pictures (CLASS/picture.png) in it")


def _tables(folder: Path, files: list[Path], dataset: Dataset) -> dict[str, Split]:
    """Read parquet files, grouped by the split that their names, or the names of their folders, tell."""
    import pyarrow.parquet as pq

    groups: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        groups[_split_of(file.relative_to(folder).parts)].append(file)
    splits = {}
    for name, members in groups.items():
        parents = sorted({str(file.parent) for file in members})
        if len(parents) > 1:
            raise InputError(f"dataset.path={folder}: several datasets in it; choose one: {' or '.join(parents)}")
        parts = []
        for file in members:
            try:
                table = pq.read_table(file, partitioning=None)
            except (OSError, ValueError) as error:  # pyarrow's errors derive from these
                reason = str(error).partition("\n")[0]
                raise InputError(f"{file}: broken parquet file: {reason}: fetch it again") from None
            parts.append(from_table(table, str(file), folder, dataset))
        splits[name] = joined(parts)
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
