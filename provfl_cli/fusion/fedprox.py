"""FedProx (Li et al. 2020, "Federated Optimization in Heterogeneous Networks", eq. 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..checks import Range, in_range
from ..imports import later
from .plain import ByExamples

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")


@dataclass(frozen=True)
class FedProx(ByExamples):
    """FedAvg with `mu / 2 * |w - w_start|^2` added to every client's loss.

    The term is applied as its gradient `mu * (w - w_start)`, exact and free of another backward pass.
    """

    mu: Annotated[float, Range(0, 1e6)] = 0.01

    def __post_init__(self) -> None:
        in_range("fusion", self)

    def correct_gradients(self, gradients: list[Tensor], weights: list[Tensor], start: list[Tensor]) -> None:
        """Add the gradient of the proximal term, in place."""
        torch._foreach_add_(gradients, torch._foreach_sub(weights, start), alpha=self.mu)
