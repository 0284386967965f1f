"""The tensors that are private to each client, where a federation has such: every client's own file, beside the rounds.

    private/0001/003.safetensors    what client 3 keeps for itself after round 1

They stand for the disks of the clients: only the client reads its file, to train, to say how good its own model is, and
to have a prediction of that traced. They are in no round, and nothing that is sent holds them. A round's folder is
filled beside its place and renamed into it before the round itself is stored, so that a round has the private tensors
that belong to it whenever the run was killed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RunError
from ..store.disk import flush
from ..store.tensorfile import open_tensors, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "private"


def private_folder(entry: Path, number: int) -> Path:
    """Where the private tensors after round `number` are, of a federation's folder `entry`."""
    return entry / FOLDER / f"{number:04d}"


def begin_private(entry: Path, number: int) -> Path:
    """Make the folder that the clients of a round write into: in it are the tensors from before it."""
    temporary = entry / FOLDER / f".{number:04d}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    before = private_folder(entry, number - 1)
    for file in sorted(before.glob("*.safetensors")) if number > 1 else ():
        try:
            os.link(file, temporary / file.name)
        except OSError:  # a file system without hard links
            shutil.copyfile(file, temporary / file.name)
    return temporary


def end_private(temporary: Path, entry: Path, number: int) -> None:
    """Put what the clients of a round have written into its place."""
    for file in temporary.iterdir():
        flush(file)
    flush(temporary)
    place = private_folder(entry, number)
    if place.exists():  # of a process that was killed before it stored the round
        shutil.rmtree(place)
    temporary.rename(place)
    flush(place.parent)


def tidy_private(entry: Path, rounds: Collection[int]) -> None:
    """Remove the private tensors of rounds that are not there any more; only under the training lock."""
    kept = {private_folder(entry, number).name for number in rounds}
    for folder in (*(entry / FOLDER).glob("[0-9]*"), *(entry / FOLDER).glob(".[0-9]*.partial")):
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def has_private(entry: Path, number: int) -> bool:
    """Whether the private tensors after a round are there."""
    return private_folder(entry, number).is_dir()


def read_private(folder: Path, client: int) -> Mapping[str, Tensor] | None:
    """What a client keeps for itself; None where it has not trained yet."""
    file = _file(folder, client)
    return open_tensors(file) if file.exists() else None


def before_round(temporary: str, number: int, client: int) -> Mapping[str, Tensor] | None:
    """What a client kept before round `number`, whose clients write into the folder `temporary`."""
    return None if number == 1 else read_private(Path(temporary).parent / f"{number - 1:04d}", client)


def write_private(temporary: str, client: int, tensors: Mapping[str, Tensor]) -> None:
    """Keep what a client has trained for itself, in place of what it had."""
    file = _file(Path(temporary), client)
    beside = file.with_name(f".{file.name}")
    try:
        write_tensors(beside, tensors)
        os.replace(beside, file)
    except OSError as error:
        raise RunError(f"{file}: the private tensors of client {client} could not be written ({error})") from error


def _file(folder: Path, client: int) -> Path:
    return folder / f"{client:03d}.safetensors"
