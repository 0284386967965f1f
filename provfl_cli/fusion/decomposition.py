"""The exact statement of what a fused model is made of (design section 2.3; paper eq. 3 and 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Decomposition:
    """`W = W_prev + U + sum_k A_k o (W_k - V_k)` with `A_k = q_k M_k`, for every parameter tensor.

    Attributes:
        example_weights: `q_k`, float64 `[clients]`: the share that a client has by its number of examples.
        multipliers: `M_k` by parameter name, `[clients]` or `[clients, *shape]`; 1 for parameters that are not named.
        unsent: `U` by kind (`momentum`, `noise`, `stale`), then by parameter name; empty for most fusions.
    """

    example_weights: Tensor
    multipliers: Mapping[str, Tensor] = field(default_factory=dict)
    unsent: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Fused:
    """What fusion hands on: the new global tensors (buffers included), the server's next state, the decomposition."""

    weights: dict[str, Tensor]
    state: dict[str, Tensor]
    decomposition: Decomposition


class Fusion(Protocol):
    """What a fusion does; see `fedavg.py` for the smallest one."""

    def correct_gradients(self, gradients: list[Tensor], weights: list[Tensor], start: list[Tensor]) -> None:
        """Change a client's `gradients` in place before its optimizer's step; `start` is the model it received."""

    def fuse(
        self,
        previous: Mapping[str, Tensor],
        clients: Mapping[str, Tensor],
        examples: Sequence[int],
        state: Mapping[str, Tensor],
        buffers: frozenset[str],
    ) -> Fused:
        """Fuse one round.

        Args:
            previous: the global tensors by name, before the round.
            clients: the returned tensors by name, stacked `[clients, *shape]` (read lazily: take one name at a time).
            examples: `n_k`, number of training examples of each client, in the order of the stack.
            state: the server's state after the last round, empty before the first.
            buffers: names of tensors that are no parameters; averaged by examples under every fusion.
        """
