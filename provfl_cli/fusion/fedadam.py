"""FedAdam (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .adaptive import TwoBetas

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FedAdam(TwoBetas):
    """`v` is the running average of `Delta^2`.

    The paper corrects no bias. `bias_correction` with `initial_v: 0` is what Flower does: the step of Adam (Kingma & Ba
    2015, before section 2.1) with its exponents one round ahead.
    """

    bias_correction: bool = False

    def rate(self, number: int) -> float:
        """`eta`, or `eta sqrt(1 - beta2^(t+1)) / (1 - beta1^(t+1))` in round `t`."""
        if not self.bias_correction:
            return self.eta
        return float(self.eta * (1 - self.beta2 ** (number + 1)) ** 0.5 / (1 - self.beta1 ** (number + 1)))

    def second_moment(self, before: Tensor, square: Tensor) -> Tensor:
        """`beta2 v + (1 - beta2) Delta^2`."""
        return self.beta2 * before + (1 - self.beta2) * square
