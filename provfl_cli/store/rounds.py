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
                lineage-0007.safetensors         the same of clients whose row round 7 was the last to write; its file
                initial.safetensors              W_0, with it; one file for all rounds
                round.json                       client ids, examples, q_k, buffers, metrics, checksums, its own as well

Of fusions that sum products of adapters (`fusion/adapters.py`) clients and global model hold the factors as they were
sent; `server_state` has those of the rounds before, which the clients' stood beside.

A round says to which federation of the training cache it belongs, and one that others trained what its clients are
called. Rounds of format 2, whose `round.json` has no checksum of its own, are read as they are.

`new_round` stores one: there are whole rounds, or none.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..bounded import LINES_BYTES as ROUND_BYTES
from ..bounded import read_json
from ..errors import RunError
from ..fusion.adapters import SideBySide, adapter_pairs, first_factor, is_merged, second_factor
from ..fusion.buffered import Buffered
from ..fusion.decomposition import Decomposition, Multiplier
from ..fusion.lineage_rows import Lineage, LineageRows, RowsInFiles
from ..imports import later
from .manifest import metrics_values, round_values
from .sealed import check_seal
from .stored_values import read_format
from .tensorfile import open_tensors, remedy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")

FORMAT = 4  # since which rows of a lineage may be in several files
SEALED = 3  # since which the manifest has a checksum of its own
READABLE = (2, SEALED, FORMAT)
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
        buffered: how the updates of a buffer counted; None where the server fused models.
        source: what recorded a round that others trained, such as `import` or `flower`; "" in rounds of our own.
        products: whether products of adapters were summed; then `weights`, `previous` and `client_stack` have their
            factors side by side, and `as_sent` gives the round with the tensors that were handed out and returned.
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
    buffered: Buffered | None = None
    products: bool = False

    @property
    def metrics(self) -> Metrics:
        """Metrics of this round."""
        return self.history[-1]

    def weights(self) -> Mapping[str, Tensor]:
        """`W`: the global tensors after the round, buffers included."""
        return self._fused if self.products else self._global

    def previous(self) -> Mapping[str, Tensor]:
        """`W_prev`: the global tensors that the clients started from."""
        return self._started if self.products else self._previous

    def client_stack(self) -> Mapping[str, Tensor]:
        """`W_k`: what the clients returned, each tensor `[clients, *shape]`."""
        return SideBySide(self._clients, adapter_pairs(self._clients)) if self.products else self._clients

    def as_sent(self) -> Round:
        """The round whose global tensors are those that the next round starts from, and clients' as they returned them.

        The round itself, but where products of adapters were summed.
        """
        return self._as_sent if self.products else self

    def merged(self) -> Mapping[str, Tensor]:
        """Factors of adapters that former rounds put into the base of the model, by name; empty where none did."""
        return {name: self._state[name] for name in self._state if is_merged(name)} if self.products else {}

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
            return Decomposition(weights, products=self.products)
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
        multipliers = {name: Multiplier(**parts) for name, parts in factors.items()}
        return Decomposition(weights, multipliers, unsent, self.products)

    @cached_property
    def _global(self) -> Mapping[str, Tensor]:
        return self._open(GLOBAL)

    @cached_property
    def _as_sent(self) -> Round:
        return replace(self, products=False)

    @cached_property
    def _fused(self) -> dict[str, Tensor]:
        """`W`, factors side by side."""
        weights = {name: self._global[name] for name in self._global}
        shares = torch.tensor(self.example_weights, dtype=torch.float64)
        for second, first in adapter_pairs(self._clients).items():
            weights[first] = first_factor(self._clients[first])
            weights[second] = second_factor(self._clients[second], shares)
        return weights

    @cached_property
    def _started(self) -> dict[str, Tensor]:
        """`W_prev`, likewise: `A` is the same, `B` 0."""
        before = {name: self._previous[name] for name in self._previous}
        for second, first in adapter_pairs(self._clients).items():
            before[first] = self._fused[first]
            before[second] = torch.zeros_like(self._fused[second])
        return before

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
        if rows is None:
            return None
        initial, own = self._open(INITIAL), self._open(LINEAGE)
        if not rows.held:
            return Lineage(rows, initial, own)
        others = {number: self._open(lineage_part(number)) for number in sorted({*rows.held} - {self.number})}
        try:
            return Lineage(rows, initial, RowsInFiles(rows, {**others, self.number: own}))
        except (KeyError, ValueError) as error:
            raise RunError(f"{self.folder} cannot be read ({error}): {remedy(self.folder)}") from error

    def _open(self, name: str) -> Mapping[str, Tensor]:
        return open_tensors(self.folder / name, self.checksums[name])


def lineage_part(number: int) -> str:
    """The name that the file with the lineage of round `number` has in the folders of later rounds."""
    return f"lineage-{number:04d}.safetensors"


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
        check_seal(text, since=SEALED)
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
    held = {*stored.lineage_rows.held} if stored.lineage_rows is not None else set()
    if held and max(held) > number:
        raise ValueError(f"lineage.held names round {max(held)}, which is later")
    for name in (*ALWAYS, *there, *(lineage_part(earlier) for earlier in sorted(held - {number}))):
        if name not in stored.checksums:
            raise ValueError(f"it is damaged: the checksum of {name} is missing")


def has_lineage(stored: Round, decay: float | None) -> bool:
    """Whether a stored round will do where accumulators with this decay are asked for (None: none are).

    Where it will not, the round counts as not stored: `commit_round` replaces it by the one trained again.
    """
    return decay is None or (stored.lineage_rows is not None and stored.lineage_rows.decay == decay)


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
