"""What clients keep from round to round beside their model, where a fusion asks for it: control variates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from ..imports import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")


class ClientState(Protocol):
    """A tensor for each trained weight that every client keeps (`c_k`), and one that the server keeps (`c`).

    All are 0 before the first round. A client gets `c` with the model, and returns its new `c_k` with its own; the
    server then moves `c` by the mean of the changes (`next_control`). Lists hold a tensor for each trained weight.
    """

    @property
    def whole_gradient(self) -> bool:
        """Whether `renewed` needs the gradient of the client's loss over its whole share at the model it received."""

    def correction(self, control: Sequence[Tensor], own: Sequence[Tensor]) -> list[Tensor]:
        """What is added to each gradient while a client trains, from `c` and its `c_k`."""

    def renewed(
        self,
        control: Sequence[Tensor],
        own: Sequence[Tensor],
        start: Sequence[Tensor],
        end: Sequence[Tensor],
        rates: float,
        gradient: Sequence[Tensor] | None,
    ) -> list[Tensor]:
        """`c_k` after the round.

        Args:
            control: `c`.
            own: `c_k` before the round.
            start: the model that the client received.
            end: the model that it trained.
            rates: the sum of the learning rates of its steps.
            gradient: see `whole_gradient`; None where it is not asked for.
        """

    def control_shares(self, examples: Sequence[int]) -> list[float]:
        """What the change of each of all clients, with so many examples, counts in the server's `c`."""


def next_control(
    control: Mapping[str, Tensor],
    before: Mapping[str, Tensor] | None,
    after: Mapping[str, Tensor],
    positions: Sequence[int],
    shares: Sequence[float],
) -> dict[str, Tensor]:
    """`c + sum_k s_k (c_k+ - c_k)` over the clients of a round (line 17), float64; read a client and weight at a time.

    Args:
        control: `c` by name of the weight; 0 where it has none.
        before: `c_k` of all clients by name, stacked `[clients, *shape]`; None: 0.
        after: `c_k+`, likewise.
        positions: of the clients whose work this round fused.
        shares: `s_k` of all clients there are, `1/N` in the paper.
    """
    moved = {}
    for name in after:
        new, old = after[name], None if before is None else before[name]
        total = torch.zeros(new.shape[1:], dtype=torch.float64)
        for position in positions:
            total.add_(new[position], alpha=shares[position])
            if old is not None:
                total.add_(old[position], alpha=-shares[position])
        moved[name] = total + control.get(name, torch.zeros(()))
    return moved
