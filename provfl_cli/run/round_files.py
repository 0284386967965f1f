"""The files of a round that others trained, fitted to each other: one naming, one part of the model, ties filled in."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..coverage import listed, printable
from ..errors import InputError
from ..fusion.state_dicts import computable, require_finite, require_same
from ..provenance.shared_part import model_names
from .checkpoints.adapters import require_same_adapters
from .checkpoints.opened import Checkpoint, read_checkpoint
from .checkpoints.renaming import Substitution, new_names
from .checkpoints.tied import filled, ties


@dataclass(frozen=True)
class File:
    """A file or folder of a round, and what the user called it, such as `--client alice=alice.pt`."""

    what: str
    path: Path


@dataclass(frozen=True)
class RoundFiles:
    """A round's files, opened.

    Attributes:
        before, after: the global model, of what clients hold, by the names that `--previous` has for it.
        clients: the clients' files, in the order of their slots.
        bases: by slot the model that a client started from, where that is not `before`, by the names of that.
        called: the name in `before` of each tensor of a client.
        types: in which each of them was sent, by those names.
        adapters: `adapter_config.json` of each file that has one, by what it is called.
        lines: what the user should be told.
        previous: the file of `before`; `cut`: whether that holds more.
        tied, renaming: how names are filled in and changed.
        updates: whether clients sent differences from the model before.
    """

    before: dict[str, Tensor]
    after: dict[str, Tensor]
    clients: tuple[File, ...]
    bases: Mapping[int, dict[str, Tensor]]
    called: Mapping[str, str]
    types: Mapping[str, torch.dtype]
    adapters: tuple[tuple[str, Mapping[str, object]], ...]
    lines: tuple[str, ...]
    previous: File
    cut: bool
    tied: Mapping[str, str]
    renaming: tuple[Substitution, ...]
    updates: bool

    def sent(self) -> Iterator[dict[str, Tensor]]:
        """What each client returned, one after the other: weights, by the names of `before`.

        Raises:
            InputError: a file does not fit the others, or holds numbers that are not finite.
        """
        first: dict[str, Tensor] = {}
        for slot, file in enumerate(self.clients):
            base = self.bases.get(slot, self.before)
            tensors = filled(_renamed(file, read_checkpoint(file.path, file.what), self.renaming), self.tied)
            expected, other = self.before, self.previous.what
            if first and self.cut:
                expected, other = first, self.clients[0].what
            names = {name: self.called.get(name, name) for name in tensors}
            if len(set(names.values())) < len(names):
                raise InputError(f"{file.what}: holds tensors by the names of two wrappings: give those of the model")
            tensors = {names[name]: tensor for name, tensor in tensors.items()}
            require_same(expected, tensors, file.what, other, mixed=True)
            first = first or {name: tensor.to("meta") for name, tensor in tensors.items()}  # without their numbers
            require_same(first, tensors, file.what, self.clients[0].what)
            require_finite(tensors, file.what)
            yield {n: _moved(base[n], t) for n, t in tensors.items()} if self.updates else tensors

    def continuing(self, ended: Collection[str]) -> RoundFiles:
        """The same by the names that the round before has for its tensors, where wrappers alone make the difference."""
        try:
            names = model_names(self.before, ended, self.previous.what, "the round before")
        except InputError:  # another model: whoever compares them says so
            return self
        if len(names) != len(ended):
            return self
        return replace(
            self,
            before={names[name]: tensor for name, tensor in self.before.items()},
            after={names[name]: tensor for name, tensor in self.after.items()},
            bases={slot: {names[name]: t for name, t in base.items()} for slot, base in self.bases.items()},
            types={names[name]: dtype for name, dtype in self.types.items()},
            called={name: names[called] for name, called in self.called.items()},
        )


def open_round(
    previous: File,
    following: File,
    clients: Sequence[File],
    bases: Mapping[int, File],
    renaming: Sequence[Substitution],
    updates: bool,
) -> RoundFiles:
    """Open the files of a round, and fit the global models to what the clients hold.

    Args:
        previous, following: the global model before and after.
        clients: what clients returned, in the order of their slots.
        bases: by slot the model that a client started from, where that is not the one before.
        renaming: of all tensors.
        updates: whether clients sent differences from the model that they started from.

    Raises:
        InputError: a file cannot be read, or the files do not fit each other.
    """
    files = (previous, following, *clients)
    global_models, names, adapters = [], [], []
    renamed, types = False, dict[str, torch.dtype]()
    for position, file in enumerate(files):
        checkpoint = read_checkpoint(file.path, file.what)
        tensors = _renamed(file, checkpoint, renaming)
        renamed |= tensors.keys() != checkpoint.tensors.keys()
        names.append(tensors.keys())
        adapters.append((file.what, checkpoint.adapter))
        if position < 2:
            global_models.append(tensors)
        if position == 2:
            types = {name: tensor.dtype for name, tensor in tensors.items()}
    if renaming and not renamed:
        name = printable(next(iter(global_models[0])))
        raise InputError(f"--as-names: changes no name of any file (the first is {name})")
    require_same_adapters(adapters)
    tied = ties(names, lambda p: _renamed(files[p], read_checkpoint(files[p].path, files[p].what), renaming))
    before, after = (filled(tensors, tied) for tensors in global_models)
    part = sorted({*names[2], *(name for name, copy in tied.items() if copy in names[2])})
    called = _matched(part, before, previous, clients[0])
    if called is None:
        raise InputError(f"{clients[0].what}: has a tensor {_strange(part, before)}, which {previous.what} has not")
    shared = {called[name]: before[called[name]] for name in part}
    of_after = _matched(part, after, following, clients[0])
    if of_after is None:
        raise InputError(f"{following.what}: has no tensor {_strange(part, after)}, which {clients[0].what} has")
    ended = {called[name]: after[of_after[name]] for name in part}
    require_finite(shared, previous.what)
    require_same(shared, ended, following.what, previous.what, mixed=True)
    require_finite(ended, following.what)
    started = dict[int, dict[str, Tensor]]()
    for slot, file in bases.items():
        held = filled(_renamed(file, read_checkpoint(file.path, file.what), renaming), tied)
        of_base = _matched(part, held, file, clients[0])
        if of_base is None:
            raise InputError(f"{file.what}: has no tensor {_strange(part, held)}, which {clients[0].what} has")
        started[slot] = {called[name]: held[of_base[name]] for name in part}
        require_same(shared, started[slot], file.what, previous.what, mixed=True)
        require_finite(started[slot], file.what)
    lines = [f"filled in from their ties{listed([f'{n} (of {c})' for n, c in tied.items()], ': ')}"] if tied else []
    lines += _cut(before, after, shared.keys(), set(of_after.values()))
    return RoundFiles(
        before=shared,
        after=ended,
        clients=tuple(clients),
        bases=started,
        called=called,
        types={called[name]: types[tied.get(name, name) if name not in types else name] for name in part},
        adapters=tuple(adapters),
        lines=tuple(lines),
        previous=previous,
        cut=len(shared) < len(before),
        tied=tied,
        renaming=tuple(renaming),
        updates=updates,
    )


def same_tensors(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    """Whether both have the same names, and under them the same numbers in the same type."""
    return tensors.keys() == others.keys() and all(
        tensors[name].dtype == others[name].dtype and _equal(tensors[name], others[name]) for name in tensors
    )


def _equal(tensor: Tensor, other: Tensor) -> bool:
    """Whether both hold the same numbers, whatever their types."""
    if tensor.dtype != other.dtype:
        tensor, other = tensor.double(), other.double()
    return torch.equal(computable(tensor), computable(other))


def _renamed(file: File, checkpoint: Checkpoint, renaming: Sequence[Substitution]) -> dict[str, Tensor]:
    if not renaming:
        return checkpoint.tensors
    names = new_names(checkpoint.tensors, renaming, file.what)
    return {names[name]: tensor for name, tensor in checkpoint.tensors.items()}


def _matched(part: Collection[str], own: Mapping[str, Tensor], model: File, client: File) -> dict[str, str] | None:
    """The name in `own`, a global model, of each tensor that clients hold, through wrappers; None: it has them not."""
    try:
        return model_names(part, own, model.what, client.what)
    except InputError:
        return None


def _strange(names: Collection[str], known: Collection[str]) -> str:
    """The first name that is not known, and how many more there are."""
    strange = sorted(set(names) - set(known)) or sorted(names)
    return printable(strange[0]) + (f" (nor {len(strange) - 1} more)" if len(strange) > 1 else "")


def _cut(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], shared: Collection[str], of_after: Collection[str]
) -> list[str]:
    """What to say where the global models hold more than the clients."""
    lines = []
    constants = before.keys() - shared
    if constants:
        lines.append(
            f"the clients hold {len(shared):,} of {len(before):,} tensors of --previous, and so does the round: the "
            "others are constants, which --model of a trace has to hold"
        )
    elif len(after) > len(of_after):
        lines.append(f"the clients hold {len(of_after):,} of {len(after):,} tensors of --global, and so does the round")
    moved = sorted(name for name in constants & (after.keys() - of_after) if not _equal(before[name], after[name]))
    if moved:
        lines.append(f"the server changed tensors that no client holds, which no trace explains{listed(moved, ': ')}")
    return lines


def _moved(before: Tensor, update: Tensor) -> Tensor:
    """The weights of a client that sent a difference; in float32 at least, for sums in half precision lose it."""
    if not before.is_floating_point():
        return before + update
    kind = torch.float64 if before.dtype == torch.float64 else torch.float32
    return (before.double() + update.double()).to(kind)
