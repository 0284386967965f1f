"""What a round's clients returned, as the server sees it, read a block at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..imports import later
from .buffered import Buffered

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")

BLOCK_NUMBERS = 1 << 20  # of all clients together, in one block


@dataclass(frozen=True)
class ReturnedModels:
    """What the clients of a round returned, and what they started from.

    Attributes:
        previous: the global tensors before the round.
        clients: returned tensors by name, stacked `[clients, *shape]`, read lazily: one name at a time.
        examples: `n_k`, training examples of each.
        steps: optimizer steps that each made.
        buffers: names of tensors that are no parameters.
        bases: `V_k` of late clients by their position; the others started from `previous`.
        buffered: how updates of a buffer count; None: the server fuses models, of late clients too.
    """

    previous: Mapping[str, Tensor]
    clients: Mapping[str, Tensor]
    examples: Sequence[int]
    steps: Sequence[int]
    buffers: frozenset[str]
    bases: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    buffered: Buffered | None = None

    @property
    def parameters(self) -> list[str]:
        """Names of the tensors that fusion combines."""
        return [name for name in self.previous if name not in self.buffers]


@dataclass(frozen=True)
class Updates:
    """`E_k = c_k (W_k - V_k) + V_k - W_prev`: how far each client's model, its own update clipped, is from the global.

    Of a buffer of updates `E_k = c_k (W_k - V_k)`. `factors` are the `c_k`, float64 `[clients]`: 1 without clipping.
    """

    returned: ReturnedModels
    factors: Tensor

    @property
    def count(self) -> int:
        """Number of clients."""
        return len(self.returned.examples)

    @property
    def has_stale(self) -> bool:
        """Whether old models of late clients enter the combined update."""
        return bool(self.returned.bases) and self.returned.buffered is None

    def weighted(self) -> Updates:
        """The updates as a buffer counts them: by staleness, and where it says so the same whatever their examples."""
        buffered = self.returned.buffered
        if buffered is None:
            return self
        returned = replace(self.returned, examples=[1] * self.count) if buffered.equal else self.returned
        return Updates(returned, self.factors * torch.tensor(buffered.weights, dtype=torch.float64))

    @property
    def names(self) -> list[str]:
        """Names of the parameters."""
        return self.returned.parameters

    def blocks(self, name: str) -> Iterator[slice]:
        """Slices of the first dimension of a parameter, each small enough for all clients at once."""
        shape = tuple(self.returned.previous[name].shape) or (1,)
        row = max(1, self.returned.previous[name].numel() // max(shape[0], 1)) * self.count
        step = max(1, BLOCK_NUMBERS // row)
        for start in range(0, shape[0], step):
            yield slice(start, min(start + step, shape[0]))

    def own(self, name: str, where: slice) -> Tensor:
        """`W_k - V_k`, unclipped, for those rows: float64 `[clients, rows, *rest]`."""
        sent = _stack(self.returned.clients[name])[:, where].double()
        own = sent - _whole(self.returned.previous[name])[where].double()
        for position, base in self.returned.bases.items():
            own[position] = sent[position] - _whole(base[name])[where].double()
        return own

    def stale(self, name: str, where: slice) -> Tensor | None:
        """`V_k - W_prev`, in the shape of `own`; None where nobody was late, or only updates are fused."""
        if not self.has_stale:
            return None
        previous = _whole(self.returned.previous[name])[where].double()
        stale = torch.zeros(self.count, *previous.shape, dtype=torch.float64)
        for position, base in self.returned.bases.items():
            stale[position] = _whole(base[name])[where].double() - previous
        return stale

    def rows(self, name: str, where: slice) -> Tensor:
        """`E_k` for those rows, float64 `[clients, rows, *rest]`."""
        own = self.own(name, where)
        moved = own.mul_(self.factors.view(-1, *(1,) * (own.dim() - 1)))
        stale = self.stale(name, where)
        return moved if stale is None else moved.add_(stale)


def norms(updates: Updates) -> Tensor:
    """Euclidean norm of each client's own update over all parameters, before clipping: float64 `[clients]`."""
    squares = torch.zeros(updates.count, dtype=torch.float64)
    for name in updates.names:
        for where in updates.blocks(name):
            squares += updates.own(name, where).flatten(1).square().sum(1)
    return squares.sqrt()


def unclipped(returned: ReturnedModels) -> Updates:
    """The updates as they came."""
    return Updates(returned, torch.ones(len(returned.examples), dtype=torch.float64))


def _whole(tensor: Tensor) -> Tensor:
    """A parameter without dimensions as one row."""
    return tensor[None] if tensor.dim() == 0 else tensor


def _stack(tensor: Tensor) -> Tensor:
    return tensor[:, None] if tensor.dim() == 1 else tensor
