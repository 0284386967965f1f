"""What FedAdagrad, FedAdam and FedYogi share (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config.checks import above, at_least
from ..errors import InputError
from .fedavg import FedAvg

if TYPE_CHECKING:
    from torch import Tensor

SECOND = "second"  # v_t in the server's state


@dataclass(frozen=True)
class Adaptive(FedAvg, ABC):
    """`m <- beta1 m + (1 - beta1) Delta`, `W = W_prev + eta m / (sqrt(v) + tau)`, `Delta = sum_k p_k D_k`.

    How `v` follows `Delta^2` is what the three differ in. `A_k = p_k (1 - beta1) S` with `S = eta / (sqrt(v) + tau)`,
    a tensor that all clients share; what `m` carries over from earlier rounds is `U`.
    """

    eta: float = 0.01
    beta1: float = 0.9
    tau: float = 1e-3
    initial_v: float | None = None  # v before the first round; None: tau^2

    def __post_init__(self) -> None:
        above("fusion.eta", self.eta, 0)
        _below_one("fusion.beta1", self.beta1)
        above("fusion.tau", self.tau, 0)
        at_least("fusion.initial_v", self.initial_v, 0)

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
        import torch

        if SECOND in state:
            before = state[SECOND].double()
        else:
            before = torch.full_like(delta, self.tau**2 if self.initial_v is None else self.initial_v)
        second = self.second_moment(before, delta.square())
        return self.rate(number) / (second.sqrt() + self.tau), {SECOND: second}


@dataclass(frozen=True)
class TwoBetas(Adaptive):
    """Those in which `v` forgets, at a pace that `beta2` sets."""

    beta2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        _below_one("fusion.beta2", self.beta2)


def _below_one(key: str, value: float) -> None:
    if not 0 <= value < 1:
        raise InputError(f"{key}={value}: must be 0 or more and below 1")
