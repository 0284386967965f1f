"""The exact statement of what a fused model is made of (design section 2.3; paper eq. 3 and 4)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..imports import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")

BITS = 8
DIFFERENCE = "difference"  # the kind of `U` of what nobody can explain: the model is not what the fusion gives
ROUNDING = "rounding"  # and that of a model that was computed in a coarser type than it is stored in


@dataclass(frozen=True)
class Multiplier:
    """`M_k = scalars[k] * shared o sum_j bits[j, k] o values[j]` for one parameter; a factor that is None is 1.

    Compact whatever the fusion: a number a client, one tensor for all of them, and a bit a client and coordinate where
    coordinates choose among clients.

    Attributes:
        scalars: float64 `[clients]`.
        shared: `[*shape]`.
        bits: uint8 `[terms, clients, rows, bytes]`, rows of the first dimension, each packed by `pack`.
        values: `[terms, *shape]`, what a set bit of a term counts; given with `bits`.
    """

    scalars: Tensor
    shared: Tensor | None = None
    bits: Tensor | None = None
    values: Tensor | None = None

    def rows(self, where: slice | Tensor, shape: tuple[int, ...]) -> Tensor:
        """`M_k` for those rows of a parameter of this shape, float64 `[clients, rows, *rest]`.

        A parameter without dimensions counts as one row.
        """
        rest = shape[1:]
        result = self.scalars.double().view(-1, *(1,) * max(len(shape), 1))
        if self.shared is not None:
            result = result * _rows(self.shared, where).double()
        if self.bits is not None and self.values is not None:
            chosen = unpack(self.bits[:, :, where], rest)
            result = result * sum(
                on * _rows(value, where).double() for on, value in zip(chosen, self.values, strict=True)
            )
        return result

    def scaled(self, scalars: Tensor, shared: Tensor | None = None) -> Multiplier:
        """This multiplier times a number a client, `[clients]`, and elementwise times a tensor."""
        both = shared if self.shared is None else self.shared if shared is None else self.shared * shared
        return Multiplier(self.scalars * scalars, both, self.bits, self.values)

    def is_one(self) -> bool:
        """Whether it changes nothing."""
        return self.shared is None and self.bits is None and bool((self.scalars == 1).all())

    def used(self) -> Tensor:
        """Clients of which it takes anything, bool `[clients]`."""
        used = self.scalars != 0
        return used if self.bits is None else used & (self.bits != 0).flatten(2).any(2).any(0)


@dataclass(frozen=True)
class Decomposition:
    """`W = W_prev + U + sum_k A_k o (W_k - V_k)` with `A_k = q_k M_k`, for every parameter tensor.

    Attributes:
        example_weights: `q_k`, float64 `[clients]`: the share that a client has by its number of examples, or an equal
            one where the fusion does not count examples.
        multipliers: `M_k` by parameter name; 1 for parameters that are not named.
        unsent: `U` by kind (`momentum`, `noise`, `stale`), then by parameter name; empty for most fusions.
        products: whether it is that of adapters whose products are summed: it speaks of their factors side by side, in
            which each client moved its own columns of `B` from 0 (`adapters.py`).
    """

    example_weights: Tensor
    multipliers: Mapping[str, Multiplier] = field(default_factory=dict)
    unsent: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    products: bool = False

    def candidates(self, parameters: Collection[str]) -> Tensor:
        """Clients with a nonzero `A_k` for some of the `parameters`, bool `[clients]`."""
        used = self.example_weights != 0
        if any(name not in self.multipliers for name in parameters):
            return used
        taken = used.new_zeros(used.shape)
        for name in parameters:
            taken |= self.multipliers[name].used()
        return used & taken


def pack(mask: Tensor) -> Tensor:
    """A bool mask `[…, rows, *rest]` of a parameter, `rest` packed into bytes: uint8 `[…, rows, bytes]`.

    `mask` has its `rest` flattened into the last dimension, `[…, rows, numbers]`.
    """
    numbers = mask.shape[-1]
    padded = torch.nn.functional.pad(mask.to(torch.uint8), (0, -numbers % BITS))
    powers = 2 ** torch.arange(BITS, dtype=torch.uint8)
    return (padded.view(*mask.shape[:-1], -1, BITS) * powers).sum(-1, dtype=torch.uint8)


def unpack(bits: Tensor, rest: tuple[int, ...]) -> Tensor:
    """The mask that `pack` was given, bool `[…, rows, *rest]`."""
    numbers = torch.Size(rest).numel()
    unpacked = (bits[..., None] >> torch.arange(BITS, dtype=torch.uint8)) & 1
    return unpacked.flatten(-2)[..., :numbers].reshape(*bits.shape[:-1], *rest).bool()


def _rows(tensor: Tensor, where: slice | Tensor) -> Tensor:
    return tensor[None] if tensor.dim() == 0 else tensor[where]
