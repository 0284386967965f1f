"""FedAdagrad (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..checks import BELOW_ONE, RATE
from .adaptive import Adaptive

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FedAdagrad(Adaptive):
    """`v` is the sum of all `Delta^2`; without momentum, as in the paper's experiments, unless `beta1` is set."""

    eta: Annotated[float, RATE] = 0.1
    beta1: Annotated[float, BELOW_ONE] = 0.0

    def second_moment(self, before: Tensor, square: Tensor) -> Tensor:
        """`v + Delta^2`."""
        return before + square
