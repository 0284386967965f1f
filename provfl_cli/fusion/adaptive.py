"""What FedAdagrad, FedAdam and FedYogi share (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..checks import BELOW_ONE, RATE, Range, in_range
from ..imports import later
from .plain import ByExamples

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")

SECOND = "second"  # v_t in the server's state


@dataclass(frozen=True)
class Adaptive(ByExamples, ABC):
    """`m <- beta1 m + (1 - beta1) Delta`, `W = W_prev + eta m / (sqrt(v) + tau)`, `Delta = sum_k p_k D_k`.

    How `v` follows `Delta^2` is what the three differ in. `A_k = p_k (1 - beta1) S` with `S = eta / (sqrt(v) + tau)`,
    a tensor that all clients share; what `m` carries over from earlier rounds is `U`.
    """

    eta: Annotated[float, RATE] = 0.01
    beta1: Annotated[float, BELOW_ONE] = 0.9
    tau: Annotated[float, RATE] = 1e-3
    initial_v: Annotated[float | None, Range(0, 1e6)] = None  # v before the first round; None: tau^2

    def __post_init__(self) -> None:
        in_range("fusion", self)

    @property
    def decay(self) -> float:
        """`beta1`."""
        return self.beta1

    @property
    def gain(self) -> float:
        """`1 - beta1`."""
        return 1 - self.beta1

    @abstractmethod
    def second_moment(self, before: Tensor, square: Tensor) -> Tensor:
        """`v_t` from `v_(t-1)` and `Delta_t^2`, all float64 and of one parameter's shape."""

    def rate(self, number: int) -> float:
        """The server's learning rate in the round that is its `number`-th, from 1."""
        return self.eta

    def scale(
        self, delta: Tensor, state: Mapping[str, Tensor], number: int
    ) -> tuple[float | Tensor, dict[str, Tensor]]:
        """`S` of this round, and `v`."""
        if SECOND in state:
            before = state[SECOND].double()
        else:
            before = torch.full_like(delta, self.tau**2 if self.initial_v is None else self.initial_v)
        second = self.second_moment(before, delta.square())
        return self.rate(number) / (second.sqrt() + self.tau), {SECOND: second}


@dataclass(frozen=True)
class TwoBetas(Adaptive):
    """Those in which `v` forgets, at a pace that `beta2` sets."""

    beta2: Annotated[float, BELOW_ONE] = 0.99
