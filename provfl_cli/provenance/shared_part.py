"""Part of a model: a round may hold any of a model's tensors; the others are constants of the model (section 2).

Names are matched through the wrappers that people train and send models in: `module.` of data parallelism, `model.` of
a LightningModule, `_orig_mod.` of `torch.compile`, and what PEFT adds to a module's names and leaves out of a file's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from ..coverage import printable
from ..errors import InputError
from ..fusion.adapters import FIRST, SECOND
from ..fusion.decomposition import Decomposition
from ..fusion.lineage_rows import OWNERS, PLAIN, WEIGHTED, RowsInFiles
from .lineage import LineageRound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .stack import FusedRound, Source

T = TypeVar("T")

WRAPPERS = ("module", "model", "base_model", "network")  # first parts of names that a wrapper puts before all


def fitted(model: nn.Module, source: Source, what: str = "model", other: str = "the models of the round") -> Source:
    """The round with the model's own names for its tensors; the round itself where these are its names.

    A tied parameter has the first of its names, whichever of them was stored.

    Args:
        model: takes the round's tensors; it may hold more, which are constants.
        source: a round, or its lineage.
        what, other: what the model and the round are called in an error.

    Raises:
        InputError: a tensor of the round is none of the model, or of another shape there; or tensors that the model
            ties differ in the round, which then is of a model that does not tie them.
    """
    weights = source.weights()
    own = model.state_dict(keep_vars=True)
    matched = model_names(weights, own, what, other)
    for name, called in matched.items():
        if weights[name].shape != own[called].shape:
            raise InputError(
                f"{what}: {printable(called)} is {list(own[called].shape)} in the model and "
                f"{list(weights[name].shape)} in {other}"
            )
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters():  # each once, under its first name
        first[id(parameter)] = name
    names = {name: first.get(id(own[called]), called) for name, called in matched.items()}
    _require_ties(weights, names, what, other)
    # Of tied tensors that were both stored, the one of the first name is read.
    whole = {called: name for name, called in names.items()} | {c: n for n, c in names.items() if matched[n] == c}
    if all(called == name for called, name in whole.items()) and len(whole) == len(names):
        return source
    return _renamed(source, whole)


def _require_ties(weights: Mapping[str, Tensor], names: Mapping[str, str], what: str, other: str) -> None:
    """Raise InputError where stored tensors of the same parameter differ."""
    stored: dict[str, str] = {}
    for name, called in names.items():
        before = stored.setdefault(called, name)
        if before != name and not torch.equal(weights[before], weights[name]):
            raise InputError(
                f"{what}: {printable(before)} and {printable(name)} are the same tensor in the model, and differ in "
                f"{other}: give the model that does not tie them"
            )


def load_part(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy the tensors of a round into the model that it is of; what the round does not hold stays as it is.

    Factors of adapters take the rank that they have there.

    Raises:
        InputError: a tensor is none of the model.
    """
    own = model.state_dict()
    names = model_names(tensors, own, "model", "the models of the round")
    with torch.no_grad():
        for name, tensor in tensors.items():
            called = names[name]
            if own[called].shape != tensor.shape and (factor := _factor_of(model, called)) is not None:
                with_rank(factor, tensor.shape)
                own[called] = factor.weight
            own[called].copy_(tensor)


def with_rank(factor: nn.Linear, shape: torch.Size) -> None:
    """Let a factor of an adapter have another rank; its numbers are lost, unless it has that shape."""
    if factor.weight.shape != shape:
        factor.weight = nn.Parameter(factor.weight.new_empty(shape), requires_grad=factor.weight.requires_grad)
        factor.out_features, factor.in_features = shape


def _factor_of(model: nn.Module, name: str) -> nn.Linear | None:
    """The module of a factor of an adapter, by the name of its weight; None: it is none."""
    module = model.get_submodule(name.rpartition(".")[0])
    return module if isinstance(module, nn.Linear) and not {FIRST, SECOND}.isdisjoint(name.split(".")) else None


def model_names(stored: Collection[str], own: Collection[str], what: str, other: str) -> dict[str, str]:
    """The model's name for each stored tensor.

        >>> model_names(["layer.lora_A.weight"], ["layer.base_layer.weight", "layer.lora_A.default.weight"], "m", "r")
        {'layer.lora_A.weight': 'layer.lora_A.default.weight'}

    Args:
        stored: names of the round's tensors.
        own: names of the model's.
        what, other: what the model and the round are called in an error.

    Raises:
        InputError: a stored tensor is none of the model, or could be two of it.
    """
    strange = sorted(set(stored) - set(own))
    if not strange:
        return {name: name for name in stored}
    for stored_parts, own_parts in _unwrapped(stored, own):
        by_parts: dict[str, list[str]] = {}
        for name, parts in own_parts.items():
            by_parts.setdefault(parts, []).append(name)
        wanted = set(stored_parts.values())
        if len(wanted) == len(stored_parts) and wanted <= by_parts.keys():
            several = [name for name, parts in stored_parts.items() if len(by_parts[parts]) > 1]
            if several:
                first, second, *_ = by_parts[stored_parts[several[0]]]
                raise InputError(
                    f"{what}: {printable(several[0])} of {other} may be its {printable(first)} or its "
                    f"{printable(second)}: give the model with one adapter"
                )
            return {name: by_parts[parts][0] for name, parts in stored_parts.items()}
    missing = sorted(set(own) - set(stored))
    lacks = f"no {printable(missing[0])} (of {len(missing)}), and " if missing and len(strange) == len(stored) else ""
    raise InputError(
        f"{what}: is not the model that was recorded: {other} hold {lacks}{printable(strange[0])} (of {len(strange)}), "
        "which the model has not"
    )


def _unwrapped(stored: Collection[str], own: Collection[str]) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Names of both sides without what wrappers add, more and more of it."""
    ways = [list(_shorter({name: _plain(name) for name in names})) for names in (stored, own)]
    stripped = [(i, j) for i in range(len(ways[0])) for j in range(len(ways[1]))]
    for i, j in sorted(stripped, key=lambda pair: (sum(pair), pair[1])):
        yield ways[0][i], ways[1][j]


def _shorter(names: dict[str, str]) -> Iterator[dict[str, str]]:
    """The names, then without their wrapper, then without that inside it, and so on."""
    parts: dict[str, str] | None = names
    while parts:
        yield parts
        parts = _without_wrapper(parts)


def _without_wrapper(names: Mapping[str, str]) -> dict[str, str] | None:
    """All names without their first part, where that is the same and a wrapper's; None where it is not."""
    fronts = {parts.partition(".")[0] for parts in names.values()}
    if len(fronts) != 1 or fronts.isdisjoint(WRAPPERS):
        return None
    return {name: parts.partition(".")[2] for name, parts in names.items()}


def _plain(name: str) -> str:
    """A name without what `torch.compile` and PEFT put into it."""
    parts: list[str] = []
    rest = iter(name.split("."))
    for part in rest:
        if part in ("_orig_mod", "base_layer"):
            continue
        if part == "modules_to_save":
            next(rest, None)  # the adapter's name
            continue
        parts.append(part)
        if part.startswith("lora_"):  # then the adapter's name, where it is a model's; a vector is a module there
            tail = [end for end in rest if end in ("weight", "bias")]
            parts += [] if part == "lora_magnitude_vector" else tail
    if parts[:2] == ["base_model", "model"]:
        parts = parts[2:]
    return ".".join(parts)


# -- a round under other names ---------------------------------------------------------------------------------------


class _Renamed(Mapping[str, Tensor]):
    """Tensors by the model's names; each is read when it is asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], stored: Mapping[str, str]) -> None:
        self.tensors = tensors
        self.stored = stored

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.stored[name]]

    def __iter__(self) -> Iterator[str]:
        return (name for name, stored in self.stored.items() if stored in self.tensors)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class RenamedRound:
    """A round whose tensors have other names: `stored` gives, by the new name, the one in `round`."""

    round: FusedRound
    stored: Mapping[str, str]

    @property
    def clients(self) -> Sequence[int]:
        """Client numbers."""
        return self.round.clients

    @property
    def names(self) -> tuple[str, ...]:
        """What the clients are called."""
        return tuple(getattr(self.round, "names", ()))

    @cached_property
    def decomposition(self) -> Decomposition:
        """How the global model is made of them."""
        parts = self.round.decomposition
        return replace(
            parts,
            multipliers=_by_new_name(parts.multipliers, self.stored.items()),
            unsent={kind: _by_new_name(tensors, self.stored.items()) for kind, tensors in parts.unsent.items()},
        )

    def weights(self) -> Mapping[str, Tensor]:
        """The global tensors after fusion."""
        return _Renamed(self.round.weights(), self.stored)

    def previous(self) -> Mapping[str, Tensor]:
        """The global tensors before."""
        return _Renamed(self.round.previous(), self.stored)

    def client_stack(self) -> Mapping[str, Tensor]:
        """The clients' tensors by name, stacked."""
        return _Renamed(self.round.client_stack(), self.stored)

    def bases(self) -> Mapping[int, Mapping[str, Tensor]]:
        """What late clients started from."""
        return {position: _Renamed(base, self.stored) for position, base in self.round.bases().items()}

    def corrections(self) -> Mapping[str, Tensor]:
        """How far the server's control variates moved each client."""
        return _Renamed(self.round.corrections(), self.stored)


def _by_new_name(values: Mapping[str, T], stored: Iterable[tuple[str, str]]) -> dict[str, T]:
    return {name: values[old] for name, old in stored if old in values}


def _renamed(source: Source, stored: Mapping[str, str]) -> Source:
    if not isinstance(source, LineageRound):
        return RenamedRound(source, stored)
    lineage = source.lineage
    accumulated = {f"{kind}/{name}": f"{kind}/{old}" for kind in (WEIGHTED, PLAIN) for name, old in stored.items()}
    tensors: Mapping[str, Tensor] = _Renamed(lineage.tensors, accumulated)
    if isinstance(lineage.tensors, RowsInFiles):
        held = lineage.tensors.files
        names = accumulated | {OWNERS: OWNERS}
        tensors = RowsInFiles(lineage.rows, {number: _Renamed(file, names) for number, file in held.items()})
    return LineageRound(
        _Renamed(source.after, stored), replace(lineage, initial=_Renamed(lineage.initial, stored), tensors=tensors)
    )
