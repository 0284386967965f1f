"""One stored round: what the clients returned, what the server made of it, and what it cost.

    rounds/0001/clients.safetensors              every tensor stacked [clients, *shape]
                global.safetensors               W, after the round
                previous.safetensors             W_prev, before it: what the clients started from
                server_state.safetensors         the fusion's state before the round (to fuse it again differently)
                next_server_state.safetensors    the fusion's state after it (to continue)
                decomposition.safetensors        multipliers M_k and unsent terms U, where the fusion has any
                bases.safetensors                what late clients started from, where there are any
                corrections.safetensors          how far control variates moved the clients, where there are any
                lineage.safetensors              what each client sent over all rounds, where that is asked for
                initial.safetensors              W_0, with it; one file for all rounds
                round.json                       client ids, examples, q_k, buffers, metrics, checksums, its own as well

A round says to which federation of the training cache it belongs, and one that others trained what its clients are
called. Rounds of format 2, whose `round.json` has no checksum of its own, are read as they are.

A round is written into a temporary folder beside it and renamed into place: there are whole rounds, or none.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lazy_loader as lazy

from ..bounded import LINES_BYTES as ROUND_BYTES
from ..bounded import read_json
from ..errors import RunError
from ..fusion.decomposition import Decomposition, Multiplier
from ..fusion.lineage import Lineage, LineageRows, NextLineage
from .disk import checksum, flush
from .manifest import metrics_values, round_values
from .sealed import check_seal, sealed
from .stored_values import read_format
from .tensorfile import Specs, allocate, open_tensors, remedy, stacked, write_pieces, write_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy.load("torch")

FORMAT = 3
READABLE = (2, FORMAT)
MANIFEST = "round.json"
CLIENTS, GLOBAL, PREVIOUS = "clients.safetensors", "global.safetensors", "previous.safetensors"
STATE, NEXT_STATE, DECOMPOSITION, BASES = (
    "server_state.safetensors",
    "next_server_state.safetensors",
    "decomposition.safetensors",
    "bases.safetensors",
)
CORRECTIONS, LINEAGE, INITIAL = "corrections.safetensors", "lineage.safetensors", "initial.safetensors"
ALWAYS = (CLIENTS, GLOBAL, PREVIOUS, STATE, NEXT_STATE)  # files that every round has; of the others some
SOMETIMES = (DECOMPOSITION, BASES, CORRECTIONS, LINEAGE, INITIAL)
LEFTOVER = re.compile(r"\.\d{4,}\.(partial|removed)")  # what a killed process leaves


@dataclass(frozen=True)
class Metrics:
    """What a round came to: the new global model on the server's test set, and how long it took.

    `loss` is the mean cross entropy, `train_loss` the clients' own mean loss over their last pass, by examples: NaN
    where nobody knows, as of rounds that others trained;
    `clients` whose work is fused, `seconds` from the first client's start to the end of the evaluation, `failed` the
    clients that should have trained and returned nothing.
    """

    round: int
    loss: float
    accuracy: float
    train_loss: float
    clients: int
    seconds: float
    failed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Round:
    """A stored round. Tensors stay on disk until they are read; a file's checksum is verified when it is first read.

    Attributes:
        folder: where it is stored.
        number: from 1.
        clients: numbers of the clients that trained, ascending: the order of every stack.
        examples: `n_k`, training examples of each.
        buffers: names of tensors that are no parameters.
        history: metrics of this round (last) and of all before it.
        checksums: SHA-256 of every file beside the manifest.
        lineage_rows: rows of the accumulators over all rounds; None where the federation was trained without.
        key: of the federation in the training cache; None where others trained it, and in rounds of format 2.
        names: what the clients are called, in their order; () in rounds of our own, and in those of format 2.
        source: what recorded a round that others trained, such as `import` or `flower`; "" in rounds of our own.
    """

    folder: Path
    number: int
    clients: tuple[int, ...]
    examples: tuple[int, ...]
    example_weights: tuple[float, ...]
    buffers: frozenset[str]
    history: tuple[Metrics, ...]
    checksums: Mapping[str, str]
    lineage_rows: LineageRows | None = None
    key: str | None = None
    names: tuple[str, ...] = ()
    source: str = ""

    @property
    def metrics(self) -> Metrics:
        """Metrics of this round."""
        return self.history[-1]

    def weights(self) -> Mapping[str, Tensor]:
        """`W`: the global tensors after the round, buffers included."""
        return self._global

    def previous(self) -> Mapping[str, Tensor]:
        """`W_prev`: the global tensors that the clients started from."""
        return self._previous

    def client_stack(self) -> Mapping[str, Tensor]:
        """`W_k`: what the clients returned, each tensor `[clients, *shape]`."""
        return self._clients

    def bases(self) -> Mapping[int, Mapping[str, Tensor]]:
        """`V_k` of late clients by their position in the stack; the others started from `previous`."""
        return self._bases

    def corrections(self) -> Mapping[str, Tensor]:
        """`C_k`: how far the server's control variates moved each client while it trained, `[clients, *shape]`; only of
        parameters that have such variates, empty under fusions without."""
        return self._corrections

    def server_state(self) -> Mapping[str, Tensor]:
        """The fusion's state before the round."""
        return self._state

    def next_server_state(self) -> Mapping[str, Tensor]:
        """The fusion's state after the round."""
        return self._next_state

    def lineage(self) -> Lineage | None:
        """What each client sent over all rounds; None where the federation was trained without."""
        return self._lineage

    @cached_property
    def decomposition(self) -> Decomposition:
        """What the fused model is made of (design section 2.3)."""
        weights = torch.tensor(self.example_weights, dtype=torch.float64)
        if DECOMPOSITION not in self.checksums:
            return Decomposition(weights)
        file = self._open(DECOMPOSITION)
        factors: dict[str, dict[str, Tensor]] = {}
        unsent: dict[str, dict[str, Tensor]] = {}
        for entry in file:
            kind, name = entry.split("/", 1)
            group, _, part = kind.partition(":")
            if group == "multiplier":
                factors.setdefault(name, {})[part] = file[entry]
            else:
                unsent.setdefault(part, {})[name] = file[entry]
        return Decomposition(weights, {name: Multiplier(**parts) for name, parts in factors.items()}, unsent)

    @cached_property
    def _global(self) -> Mapping[str, Tensor]:
        return self._open(GLOBAL)

    @cached_property
    def _previous(self) -> Mapping[str, Tensor]:
        return self._open(PREVIOUS)

    @cached_property
    def _clients(self) -> Mapping[str, Tensor]:
        return self._open(CLIENTS)

    @cached_property
    def _bases(self) -> dict[int, dict[str, Tensor]]:
        bases: dict[int, dict[str, Tensor]] = {}
        file = self._open(BASES) if BASES in self.checksums else {}
        for entry in file:
            position, name = entry.split("/", 1)
            bases.setdefault(int(position), {})[name] = file[entry]
        return bases

    @cached_property
    def _corrections(self) -> Mapping[str, Tensor]:
        return self._open(CORRECTIONS) if CORRECTIONS in self.checksums else {}

    @cached_property
    def _state(self) -> Mapping[str, Tensor]:
        return self._open(STATE)

    @cached_property
    def _next_state(self) -> Mapping[str, Tensor]:
        return self._open(NEXT_STATE)

    @cached_property
    def _lineage(self) -> Lineage | None:
        rows = self.lineage_rows
        return None if rows is None else Lineage(rows, self._open(INITIAL), self._open(LINEAGE))

    def _open(self, name: str) -> Mapping[str, Tensor]:
        return open_tensors(self.folder / name, self.checksums[name])


def round_folder(rounds: Path, number: int) -> Path:
    """Where round `number` is stored."""
    return rounds / f"{number:04d}"


def stored_rounds(rounds: Path) -> list[int]:
    """Numbers of the whole rounds in a folder, ascending; whatever else lies there is left alone.

    Raises:
        RunError: the folder cannot be read.
    """
    try:
        with os.scandir(rounds) as entries:
            names = [entry.name for entry in entries if re.fullmatch("[0-9]{4,}", entry.name) and entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RunError(f"{rounds} cannot be read ({error.strerror})") from error
    return sorted(int(name) for name in names if round_folder(rounds, int(name)).name == name)


def read_round(rounds: str | PathLike[str], number: int) -> Round:
    """Open a round that a run or a recording has stored; tensors are read when they are asked for.

        >>> stored = read_round("run/rounds", 1)
        >>> stored.clients, stored.examples
        ((0, 1), (3, 1))

    Args:
        rounds: the folder `rounds` of a run.
        number: of the round, from 1.

    Raises:
        RunError: where its manifest is missing or damaged, is that of another round, or a value in it can be none of a
            round; the field is named.
    """
    folder = round_folder(Path(rounds), number)
    path = folder / MANIFEST
    try:
        text = read_json(path, ROUND_BYTES)
        read_format(text, READABLE)
        check_seal(text, since=FORMAT)
        history = tuple(Metrics(**values) for values in metrics_values(text))
        stored = Round(folder=folder, history=history, **round_values(text))
        _check_whole(stored, number)
        return stored
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error}): {remedy(folder)}") from error


def _check_whole(stored: Round, number: int) -> None:
    """Raise ValueError unless a manifest is that of this round and speaks of all of it."""
    if stored.number != number:
        raise ValueError(f"it is that of round {stored.number}")
    there = (name for name in SOMETIMES if (stored.folder / name).exists())
    for name in (*ALWAYS, *there):
        if name not in stored.checksums:
            raise ValueError(f"it is damaged: the checksum of {name} is missing")


def has_lineage(stored: Round, decay: float | None) -> bool:
    """Whether a stored round will do where accumulators with this decay are asked for (None: none are).

    Where it will not, the round counts as not stored: `commit_round` replaces it by the one trained again.
    """
    return decay is None or (stored.lineage_rows is not None and stored.lineage_rows.decay == decay)


def begin_round(rounds: Path, number: int, specs: Specs, clients: int) -> Path:
    """Make the temporary folder of a round, with room for what its clients will return; returns that folder.

    Raises:
        RunError: something that is no folder has the round's name.
        OSError: the disk is full, or cannot be written to.
    """
    _require_way(rounds, number)
    temporary = rounds / f".{number:04d}.partial"
    temporary.mkdir(parents=True)
    allocate(temporary / CLIENTS, stacked(specs, clients))
    return temporary


def commit_round(
    temporary: Path,
    number: int,
    *,
    clients: Sequence[int],
    examples: Sequence[int],
    weights: Mapping[str, Tensor],
    previous: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    next_state: Mapping[str, Tensor],
    decomposition: Decomposition,
    buffers: frozenset[str],
    history: Sequence[Metrics],
    bases: Mapping[int, Mapping[str, Tensor]] | None = None,
    lineage: NextLineage | None = None,
    key: str | None = None,
    names: Sequence[str] = (),
    source: str = "",
) -> Round:
    """Write what is missing beside the clients' tensors, and rename the temporary folder into place.

    Until the rename there is no such round; after it, it is whole, also when the machine loses its power. A round of
    that number that is there already, trained without the lineage that is wanted now, is replaced. `key`, `names` and
    `source` are those of `Round`.

    Raises:
        RunError: a number or name is none that a round may have.
    """
    rounds = temporary.parent
    write_tensors(temporary / GLOBAL, weights)
    write_tensors(temporary / NEXT_STATE, next_state)
    before = round_folder(rounds, number - 1)
    _link_or_write(before / GLOBAL, temporary / PREVIOUS, previous)
    _link_or_write(before / NEXT_STATE, temporary / STATE, state)
    parts = {
        f"multiplier:{factor.name}/{name}": getattr(multiplier, factor.name)
        for name, multiplier in decomposition.multipliers.items()
        for factor in fields(multiplier)
        if getattr(multiplier, factor.name) is not None
    }
    for kind, tensors in decomposition.unsent.items():
        parts.update({f"unsent:{kind}/{name}": tensor for name, tensor in tensors.items()})
    if parts:
        write_tensors(temporary / DECOMPOSITION, parts)
    if bases:
        late = {f"{position}/{name}": base[name] for position, base in sorted(bases.items()) for name in base}
        write_tensors(temporary / BASES, late)
    if lineage is not None:
        allocate(temporary / LINEAGE, lineage.specs)
        pieces = ((piece.name, piece.row, piece.start, piece.values) for piece in lineage.pieces)
        write_pieces(temporary / LINEAGE, pieces)
        initial = before / INITIAL if number > 1 else temporary / PREVIOUS
        _link_or_write(initial, temporary / INITIAL, lineage.initial)
    manifest = {
        "format": FORMAT,
        "number": number,
        "clients": list(clients),
        "examples": list(examples),
        "example_weights": decomposition.example_weights.tolist(),
        "buffers": sorted(buffers),
        "history": [_written(metrics) for metrics in history],
        "checksums": {file.name: checksum(file) for file in sorted(temporary.glob("[!.]*.safetensors"))},
    }
    if key is not None:
        manifest["key"] = key
    if source:
        manifest |= {"source": source, "names": list(names)}
    if lineage is not None:
        manifest["lineage"] = asdict(lineage.rows)
    written = sealed(manifest)
    try:
        round_values(written)
        metrics_values(written)
    except ValueError as error:  # never a round that could not be read again
        raise RunError(f"round {number} cannot be stored: {error}") from error
    (temporary / MANIFEST).write_text(json.dumps(written, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for file in temporary.iterdir():
        flush(file)
    flush(temporary)
    _require_way(rounds, number)
    if round_folder(rounds, number).exists():
        remove_round(rounds, number)
    temporary.rename(round_folder(rounds, number))
    flush(rounds)
    return read_round(rounds, number)


def remove_round(rounds: Path, number: int) -> None:
    """Delete a stored round; killed in between, it leaves a left-over but never half a round."""
    folder = round_folder(rounds, number)
    doomed = rounds / f".{folder.name}.removed"
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def remove_leftovers(rounds: Path) -> None:
    """Delete what a killed process left unfinished, and nothing else; only under the lock of who trains here."""
    for entry in list(rounds.glob(".*")):
        if LEFTOVER.fullmatch(entry.name):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _require_way(rounds: Path, number: int) -> None:
    """Raise RunError where something that is no folder has the name of the round."""
    folder = round_folder(rounds, number)
    if os.path.lexists(folder) and not folder.is_dir():
        raise RunError(f"{folder} is in the way of round {number}: not a folder; move it away")


def _written(metrics: Metrics) -> dict[str, Any]:
    """Metrics as JSON has them, which knows no NaN: null stands for a number that is not finite."""
    numbers = asdict(metrics)
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in numbers.items()
    }


def _link_or_write(source: Path, target: Path, tensors: Mapping[str, Tensor]) -> None:
    """Let `target` be the file that the round before already holds, or write it."""
    try:
        os.link(source, target)
    except OSError:  # no such round on disk, or a file system without hard links
        write_tensors(target, tensors)
