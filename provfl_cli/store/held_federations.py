"""What a training cache holds, for people who want room: federations by age and size, and deleting some of them."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bounded import read_json
from .cache import disk_usage, is_entry, is_open, lock_kind, locked
from .rounds import stored_rounds

MADE = re.compile(r"[0-9a-f]{20}\.(safetensors|lock|part)")
BESIDE = ("bases", "partitions")  # models that federations of language start from; who was dealt which examples


@dataclass(frozen=True)
class HeldFederation:
    """One federation in a training cache.

    Attributes:
        key: its name in the cache.
        folder: of its rounds and what belongs to them.
        size: bytes on disk.
        used: when it was used last, seconds since 1970.
        rounds: how many are stored.
        about: data set, model and clients in words, as far as its description tells.
        in_use: whether a process has it open now.
    """

    key: str
    folder: Path
    size: int
    used: float
    rounds: int
    about: str
    in_use: bool

    def days(self, now: float | None = None) -> float:
        """Days since it was used."""
        return max(0.0, ((time.time() if now is None else now) - self.used) / 86400)


def held_federations(cache: Path) -> list[HeldFederation]:
    """The federations in a cache, the one used longest ago first; [] where there is no such cache.

    Raises:
        RunError: it cannot be locked.
    """
    home = cache / "federations"
    if not home.is_dir():
        return []
    kind = lock_kind(home)
    with locked(home / ".lock", kind):
        folders = [folder for folder in home.iterdir() if is_entry(folder)]
        held = [_held(folder, is_open(folder, kind)) for folder in folders]
    return sorted(held, key=lambda each: each.used)


def delete(cache: Path, keys: Iterable[str]) -> tuple[list[str], list[str]]:
    """Delete federations of a cache; those deleted, and those left because a process has them open or they cannot be.

    Raises:
        RunError: the cache cannot be locked.
    """
    home = cache / "federations"
    kind = lock_kind(home)
    deleted, left = list[str](), list[str]()
    with locked(home / ".lock", kind):
        for key in keys:
            folder, doomed = home / key, home / f".{key}.removed"
            if not is_entry(folder):  # gone in the meantime
                continue
            if is_open(folder, kind):
                left.append(key)
                continue
            try:
                folder.rename(doomed)  # first out of sight, so that no half entry is ever found
            except OSError:
                left.append(key)
                continue
            shutil.rmtree(doomed, ignore_errors=True)
            deleted.append(key)
    return deleted, left


def delete_beside(cache: Path) -> int:
    """Delete what a cache holds beside federations, which is made again when it is needed; the bytes that it took."""
    size = 0
    for folder in (cache / name for name in BESIDE):
        files = [file for file in folder.glob("*") if MADE.fullmatch(file.name) and file.is_file()]
        size += sum(file.stat().st_size for file in files)
        for file in files:
            file.unlink(missing_ok=True)
        with suppress(OSError):  # it is not there, or holds what is somebody else's
            folder.rmdir()
    return size


def kind_of(cache: Path) -> str:
    """How a cache is locked, `flock` or `lease`."""
    return lock_kind(cache / "federations")


def runs_of(federations: Iterable[HeldFederation], below: Path, deepest: int = 6) -> dict[str, list[Path]]:
    """The run folders below a folder whose link `rounds` points to each of the federations, by key."""
    places = {os.path.realpath(each.folder / "rounds"): each.key for each in federations}
    found = {key: list[Path]() for key in places.values()}
    stack = [(below, 0)]
    while stack:
        folder, depth = stack.pop()
        try:
            with os.scandir(folder) as entries:
                there = list(entries)
        except OSError:
            continue
        for entry in there:
            if entry.name == "rounds" and entry.is_symlink():
                key = places.get(os.path.realpath(entry.path))
                if key is not None:
                    found[key].append(Path(folder))
            elif entry.is_dir(follow_symlinks=False) and depth < deepest and entry.name not in ("cache", ".hydra"):
                stack.append((Path(entry.path), depth + 1))
    return {key: sorted(runs) for key, runs in found.items()}


def _held(folder: Path, in_use: bool) -> HeldFederation:
    return HeldFederation(
        folder.name,
        folder,
        disk_usage(folder),
        folder.stat().st_mtime,
        len(stored_rounds(folder / "rounds")),
        _about(folder),
        in_use,
    )


def _about(folder: Path) -> str:
    """In words what the federation is, by `training.json`, which is written for people; "" where it does not tell."""
    try:
        told = read_json(folder / "training.json")
    except (OSError, ValueError):
        return ""
    made = told.get("determined by")
    parts = [_text(told, "came from", "dataset", "name"), _text(made, "model", "target").rpartition(".")[2]]
    clients = _text(made, "federation", "clients")
    return ", ".join([part for part in parts if part] + ([f"{clients} clients"] if clients else []))


def _text(value: Any, *path: str) -> str:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return str(value)[:60] if isinstance(value, str | int) and not isinstance(value, bool) else ""
