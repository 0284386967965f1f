"""The files of a folder, listed once, and the split of the data that each belongs to by its name."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InputError

# As in `datasets.data_files` of the library datasets, whose own search takes half a minute for 10,000 files and
# lets files vanish whose names it does not understand.
KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SEPARATORS = "-._ 0-9"
SPLITS = {keyword: split for split, keywords in KEYWORDS.items() for keyword in keywords}
KEYWORD = re.compile(rf"(?<![^{SEPARATORS}])({'|'.join(SPLITS)})(?![^{SEPARATORS}])", re.IGNORECASE)
SHARD = re.compile(r"(.+)-[0-9]{5}-of-[0-9]{5}.*")  # the hub's names of a split's parts
MADE_BY_SYSTEMS = frozenset({"__MACOSX", "__pycache__"})
ADVICE = "move it out of the folder, or name it after a split (train, validation, test)"


def listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files below `folder` and folders in it without any, as relative paths in order; links to folders are followed.

    Hidden files and folders, and what operating systems leave behind, are no data.

    Raises:
        InputError: a folder that cannot be read, or that is there twice, by a link.
    """
    files: list[Path] = []
    empty: list[Path] = []
    reached: dict[tuple[int, int], Path] = {}

    def walk(inside: Path) -> int:
        place = folder / inside
        try:
            status = place.stat()
            with os.scandir(place) as entries:
                below = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            raise InputError(f"{place}: cannot be read ({error.strerror})") from None
        twin = reached.setdefault((status.st_dev, status.st_ino), inside)
        if twin is not inside:
            raise InputError(f"{place}: is the same folder as {folder / twin}, by a link: remove one of them")
        before = len(files)
        for entry in below:
            if entry.is_dir():
                if entry.name not in MADE_BY_SYSTEMS:
                    walk(inside / entry.name)
            elif entry.is_file() or not os.path.exists(entry.path):  # a link to nothing is said when it is read
                files.append(inside / entry.name)
        if len(files) == before:
            empty.append(inside)
        return len(files)

    walk(Path())
    return sorted(files, key=lambda file: file.parts), sorted(empty)


def named(name: str) -> list[str]:
    """The keywords in a name, in lower case: whole words between separators."""
    return [match.lower() for match in KEYWORD.findall(name)]


def splits_named(names: Iterable[str]) -> set[str]:
    """The splits that names tell."""
    return {SPLITS[keyword] for name in names for keyword in named(name)}


def table_splits(files: Sequence[Path], folder: Path) -> dict[str, list[Path]]:
    """Group tables by split, those of no split that is named as `train` where none is.

    The name of the file or folder at the top tells the split; folders above all tables (a hub snapshot's `data`) are
    passed over. Parts that are numbered as on the hub may be splits of any name.

    Raises:
        InputError: a name that tells two splits, one that tells none beside others that do, or the tables of several
            datasets.
    """
    depth = _common(files, 1)
    entries = _by_name(files, depth)
    if not splits_named(entries):
        groups = {"train": list(files)}
    else:
        groups = defaultdict(list)
        spelled: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
        for name, members in entries.items():
            shard = SHARD.fullmatch(name)
            word = shard[1] if shard else name
            if shard and not named(word):
                groups[word].extend(members)
                continue
            split, keyword = _split(word, entries, folder)
            for file in members:
                _check_inside(file, file.parts[depth + 1 :], split, folder)
            groups[split].extend(members)
            around = re.sub(f"[{SEPARATORS}]", "", KEYWORD.split(word, maxsplit=1)[0].lower())
            spelled[split][around, keyword] = name
        for split, names in spelled.items():
            if len(names) > 1:
                first, second, *_ = names.values()
                raise InputError(
                    f"dataset.path={folder}: both {first} and {second} are {split} data: keep one in the folder, or "
                    "name them alike"
                )
    for members in groups.values():
        parents = sorted({str(folder / file.parent) for file in members})
        if len(parents) > 1:
            raise InputError(f"dataset.path={folder}: several datasets in it; choose one: {' or '.join(parents)}")
    return {split: sorted(members, key=lambda file: file.parts) for split, members in groups.items()}


def picture_splits(files: Sequence[Path], folder: Path) -> dict[str, list[Path]]:
    """Group pictures, each in the folder of its class, by split: all are `train` where no folder above classes tells.

    A folder that holds pictures itself is a class, whatever its name. Among folders of class folders the name at the
    top tells the split; below it the same may be told again (Kaggle's `seg_train/seg_train`).

    Raises:
        InputError: a picture in no class folder, a folder that tells two splits, or none beside others that do.
    """
    stray = next((file for file in files if len(file.parts) == 1), None)
    if stray is not None:
        raise InputError(f"dataset.path={folder}: {stray} lies in no class folder; expected CLASS/{stray}")
    depth = _common(files, 2)
    entries = _by_name(files, depth)
    above = {name for name, members in entries.items() if any(len(file.parts) > depth + 2 for file in members)}
    if not splits_named(above):
        classes = sorted({file.parts[-2] for file in files})
        if len(splits_named(classes)) > 1 and all(named(name) for name in classes):
            raise InputError(
                f"dataset.path={folder}: {' and '.join(classes[:3])} name splits, and no class folders are in them: "
                "expected train/CLASS/picture.png"
            )
        return {"train": list(files)}
    groups: dict[str, list[Path]] = defaultdict(list)
    keywords: dict[str, str] = {}
    for name, members in entries.items():
        split, keyword = _split(name, entries, folder)
        classes = sorted({file.parts[-2] for file in members})
        for file in members:
            _check_inside(file, file.parts[depth + 1 : -2], split, folder)
            if len(file.parts) == depth + 2 or (len(classes) == 1 and split in splits_named(classes)):
                raise InputError(
                    f"dataset.path={folder}: {file} lies in no class folder; expected {name}/CLASS/{file.name}"
                )
        if keywords.setdefault(split, keyword) != keyword:
            both = " and ".join(other for other in entries if split in splits_named([other]))
            raise InputError(f"dataset.path={folder}: {both} are both {split} data: keep one in the folder")
        groups[split].extend(members)
    return {split: sorted(members, key=lambda file: file.parts) for split, members in groups.items()}


def _common(files: Sequence[Path], left: int) -> int:
    """How many folders lie above all files, with `left` parts below at least, that tell no split of their own."""
    depth = 0
    while all(len(file.parts) > depth + left for file in files):
        names = {file.parts[depth] for file in files}
        if len(names) > 1:
            break
        inside = {_word(file.parts[depth + 1]) for file in files}
        if splits_named(names) and len(splits_named(inside)) < 2:
            break
        depth += 1
    return depth


def _word(name: str) -> str:
    """The part of a name that may tell a split."""
    shard = SHARD.fullmatch(name)
    return shard[1] if shard else name


def _by_name(files: Iterable[Path], depth: int) -> dict[str, list[Path]]:
    entries: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        entries[file.parts[depth]].append(file)
    return entries


def _split(name: str, entries: Iterable[str], folder: Path) -> tuple[str, str]:
    """Split and keyword that a name at the top tells; InputError unless it is one."""
    keywords = named(name)
    splits = {SPLITS[keyword] for keyword in keywords}
    if len(splits) > 1:
        raise InputError(
            f"dataset.path={folder}: {name} names two splits ({', '.join(keywords)}): rename it, or read it alone with "
            f"dataset.path={folder / name}"
        )
    if not splits:
        others = " and ".join([other for other in entries if named(other)][:3])
        raise InputError(f"dataset.path={folder}: {name} names no split, but {others} beside it: {ADVICE}")
    return splits.pop(), keywords[0]


def _check_inside(file: Path, names: Iterable[str], split: str, folder: Path) -> None:
    """Raise InputError where a name below the top tells another split than the top."""
    for name in names:
        others = splits_named([_word(name)]) - {split}
        if others:
            raise InputError(
                f"dataset.path={folder}: {file} falls into two splits, {split} and {' and '.join(sorted(others))}: "
                "rename a folder or the file"
            )
