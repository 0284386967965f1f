"""SCAFFOLD (Karimireddy et al. 2020, "Stochastic Controlled Averaging for Federated Learning", algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..checks import RATE, in_range, one_of
from ..errors import InputError
from .average import equal_shares, example_shares
from .federation import Federation
from .fuse import Shares
from .plain import PlainServer
from .updates import Updates

if TYPE_CHECKING:
    from torch import Tensor


OPTIONS = ("I", "II")


@dataclass(frozen=True)
class Scaffold(PlainServer):
    """`W = W_prev + eta_g mean_k (W_k - W_prev)`, of clients that step along `gradient - c_k + c`.

    The control variates `c_k` (of a client) and `c` (of the server, the mean of all `c_k`) estimate the gradients of
    the client's and of everybody's loss: their difference takes the drift out of a client's steps. They start at 0.

    Attributes:
        option: how a client renews its `c_k` (line 12): `I`, the gradient of its loss over its whole share at the
            model it received; `II`, `c_k - c + (W_prev - W_k) / (steps * learning_rate)`, the mean of its gradients.
        global_learning_rate: `eta_g`.
        weighted: clients count by their examples in both means, so that the sum of all examples' losses is minimised,
            as FedAvg does. In the paper every client counts the same, and what is minimised is the mean of their mean
            losses: with shares of very different sizes that is another problem.
    """

    option: str = "II"
    global_learning_rate: Annotated[float, RATE] = 1.0
    weighted: bool = False

    def __post_init__(self) -> None:
        one_of("fusion.option", self.option, OPTIONS)
        in_range("fusion", self)

    def check(self, federation: Federation) -> None:
        """Plain SGD only, as the algorithm is written: with it a client's way is the sum of its gradients."""
        plain = "federation.optimizer=sgd federation.momentum=0"
        if federation.optimizer != "sgd":
            raise InputError(f"federation.optimizer={federation.optimizer}: fusion=scaffold needs plain SGD: {plain}")
        if federation.momentum:
            raise InputError(f"federation.momentum={federation.momentum}: fusion=scaffold needs plain SGD: {plain}")
        if federation.stragglers and federation.straggler_work == "late":
            raise InputError(
                "federation.straggler_work=late: fusion=scaffold defines no control variate for late work: "
                "federation.straggler_work=partial, or federation.stragglers=0"
            )

    @property
    def client_state(self) -> Scaffold:
        """The control variates."""
        return self

    @property
    def whole_gradient(self) -> bool:
        """Option I takes it."""
        return self.option == "I"

    def correction(self, control: Sequence[Tensor], own: Sequence[Tensor]) -> list[Tensor]:
        """`c - c_k` (line 10)."""
        return [c - k for c, k in zip(control, own, strict=True)]

    def renewed(
        self,
        control: Sequence[Tensor],
        own: Sequence[Tensor],
        start: Sequence[Tensor],
        end: Sequence[Tensor],
        rates: float,
        gradient: Sequence[Tensor] | None,
    ) -> list[Tensor]:
        """Line 12: the gradient at the model received, or the mean of the steps."""
        return mean_of_steps(control, own, start, end, rates) if gradient is None else list(gradient)

    def shares(self, updates: Updates) -> Shares:
        """Every client counts the same (line 16), or by its examples."""
        if self.weighted:
            return Shares(example_shares(updates.returned.examples))
        return Shares(equal_shares(updates.count))

    def control_shares(self, examples: Sequence[int]) -> list[float]:
        """What each of all clients, with so many examples, counts in the server's `c`: `1/N`, or by its examples."""
        if self.weighted:
            return [count / sum(examples) for count in examples]
        return [1.0 / len(examples)] * len(examples)

    def scale(
        self, delta: Tensor, state: Mapping[str, Tensor], number: int
    ) -> tuple[float | Tensor, dict[str, Tensor]]:
        """The global step size `eta_g` (line 17); the server's `c` is renewed by `client_state.next_control`."""
        return self.global_learning_rate, {}


def mean_of_steps(
    control: Sequence[Tensor], own: Sequence[Tensor], start: Sequence[Tensor], end: Sequence[Tensor], rates: float
) -> list[Tensor]:
    """Option II: `c_k - c + (x - y_k) / (K eta)`, weight by weight.

    `control` is `c`, `own` is `c_k`, `start` is `x`, `end` is `y_k`; `rates` the sum of the learning rates of the
    client's steps, `K eta` where they are all the same.
    """
    return [k - c + (x - y) / rates for c, k, x, y in zip(control, own, start, end, strict=True)]
