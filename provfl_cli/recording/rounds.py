"""Rounds that others train, on their way into the store: which arrays are parameters, and what is written of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..coverage import listed
from ..errors import InputError, RunError
from ..fusion.state_dicts import not_finite
from ..harmless import harmless_json
from ..store.new_round import begin_round
from ..store.recorded import RecordedFederation, write_recorded
from ..store.rounds import CLIENTS, remove_round, stored_rounds
from ..store.tensorfile import specs_of, write_slot

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # torch's own names of statistics
MOST_EXAMPLES = 10**12  # of one client


class NotRecorded(RunError):
    """Why a round cannot be recorded; the federation itself may go on."""


def require_keep(recorder: str, keep: str | int) -> None:
    """Raise InputError where `keep` does not say how many of the last rounds stay on disk."""
    if keep not in ("all", "last") and not (type(keep) is int and keep >= 1):
        raise InputError(f"{recorder}: keep={keep!r}: all, last, or the number of last rounds to keep")


def require_labels(recorder: str, labels: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes; InputError where a name is there twice."""
    for label in labels:
        if list(labels).count(label) > 1:
            raise InputError(f"{recorder}: labels: {label!r} is there twice: classes need different names")
    return tuple(labels)


def parameter_names(
    arrays: Mapping[str, Tensor],
    parameters: Collection[str] | torch.nn.Module | None,
    known: Collection[str] | None = None,
) -> list[str]:
    """Names of the arrays that are parameters; the others are buffers and are not attributed.

    `arrays` are those that clients share. `parameters`: their names, or the model; None: all but those of whole numbers
    and those that torch's layers name as running statistics. What clients do not share may be among them; `known` are
    the names of all arrays of the federation, None: those that clients share are all.

    Raises:
        NotRecorded: some of those named are not among the federation's arrays, or none is among those shared.
    """
    known = arrays if known is None else known
    floating = [name for name, value in arrays.items() if value.is_floating_point()]
    if parameters is None:
        return [name for name in floating if name.rpartition(".")[2] not in BUFFERS]
    if isinstance(parameters, torch.nn.Module):
        named = {name for name, _ in parameters.named_parameters(remove_duplicate=False)}
    else:
        named = set(parameters)
        if missing := [name for name in parameters if name not in known]:
            raise NotRecorded(
                f"parameters= names {missing[0]!r}, which is not among the federation's arrays ({', '.join(known)})"
            )
    if not named.intersection(floating):
        raise NotRecorded(f"parameters= names none of the arrays that clients share{listed(arrays, ': ')}")
    return [name for name in floating if name in named]


def require_finite(arrays: Mapping[str, Tensor], whose: str) -> None:
    """Raise NotRecorded where a number is NaN or infinite; `whose` says in whose model."""
    for name, tensor in arrays.items():
        if said := not_finite(tensor):
            raise NotRecorded(f"{whose}: {name} holds {said}")


def require_shapes(returned: Mapping[str, Tensor], previous: Mapping[str, Tensor]) -> None:
    """Raise NotRecorded where a client's arrays are not, by name and shape, those of the model that it began with."""
    if {name: value.shape for name, value in returned.items()} != {name: t.shape for name, t in previous.items()}:
        raise NotRecorded("clients return other arrays, or other shapes, than the global model's")


def whole_rounded(arrays: Mapping[str, Tensor], types: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    """Arrays in their own type, but for those that clients keep as whole numbers, whose averages come as fractions."""
    return {
        name: value if types[name].is_floating_point or not value.is_floating_point() else value.round().to(types[name])
        for name, value in arrays.items()
    }


def temporary_folder(rounds: Path, number: int) -> Path:
    """Where a round is written until it is whole."""
    return rounds / f".{number:04d}.partial"


def write_clients(
    rounds: Path,
    number: int,
    previous: Mapping[str, Tensor],
    models: Iterable[tuple[str, Mapping[str, Tensor]]],
    count: int,
) -> None:
    """Write what the clients returned into the temporary folder of a round, one after the other.

    Args:
        rounds: the folder of the rounds.
        number: of the round.
        previous: the model that it began with.
        models: what each client is called and returned, in the order of the stack; read once.
        count: how many they are.

    Raises:
        NotRecorded: arrays do not belong together, or numbers are not finite.
    """
    specs = None
    for slot, (client, returned) in enumerate(models):
        own = specs_of(returned)
        if specs is None:
            specs = own
            require_shapes(returned, previous)
            begin_round(rounds, number, specs, count)
        if own != specs:
            raise NotRecorded(f"{client} returned other arrays, shapes or types than the clients before it")
        require_finite(returned, client)
        write_slot(temporary_folder(rounds, number) / CLIENTS, returned, slot)


def describe(
    folder: Path, source: str, numbers: Mapping[str, int], examples: Mapping[int, int], labels: tuple[str, ...]
) -> None:
    """Write who the clients are: their numbers by name, and the training examples of each by number."""
    names = {number: name for name, number in numbers.items()}
    write_recorded(folder, RecordedFederation(source, names, dict(examples), labels))


def note(journal: Path, line: Mapping[str, Any]) -> None:
    """Add a line to the journal of a recording."""
    with journal.open("a", encoding="utf-8") as file:
        file.write(harmless_json(json.dumps(line, ensure_ascii=False)) + "\n")


def forget(rounds: Path, keep: str | int) -> None:
    """Delete the rounds before the last `keep`; `all` keeps them."""
    if keep != "all":
        for number in stored_rounds(rounds)[: -(1 if keep == "last" else int(keep))]:
            remove_round(rounds, number)


def discard(rounds: Path, number: int) -> None:
    """Delete what was written of a round that is not recorded."""
    shutil.rmtree(temporary_folder(rounds, number), ignore_errors=True)
