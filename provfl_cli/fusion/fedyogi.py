"""FedYogi (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .adaptive import TwoBetas

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FedYogi(TwoBetas):
    """`v` moves towards `Delta^2` by a step that does not depend on how far away it is."""

    def second_moment(self, before: Tensor, square: Tensor) -> Tensor:
        """`v - (1 - beta2) Delta^2 sign(v - Delta^2)`."""
        return before - (1 - self.beta2) * square * (before - square).sign()
