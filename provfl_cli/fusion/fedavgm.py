"""FedAvgM (Hsu et al. 2019, "Measuring the Effects of Non-Identical Data Distribution", section 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..checks import BELOW_ONE, RATE, in_range
from .plain import ByExamples

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FedAvgM(ByExamples):
    """FedAvg with momentum on the server: `v <- momentum v + sum_k p_k D_k`, `W = W_prev + learning_rate v`.

    `A_k = learning_rate p_k`; what the momentum carries over from earlier rounds is `U`.
    """

    momentum: Annotated[float, BELOW_ONE] = 0.9
    learning_rate: Annotated[float, RATE] = 1.0

    def __post_init__(self) -> None:
        in_range("fusion", self)

    @property
    def decay(self) -> float:
        """The momentum."""
        return self.momentum

    def scale(
        self, delta: Tensor, state: Mapping[str, Tensor], number: int
    ) -> tuple[float | Tensor, dict[str, Tensor]]:
        """The server's learning rate."""
        return self.learning_rate, {}
