"""Asynchronous fusion: a buffer of updates, each from the model that its client started from (FedBuff).

Nguyen et al. 2022, "Federated Learning with Buffered Asynchronous Aggregation", algorithm 1: as soon as `K` updates are
there, the server moves by

    W = W_prev + rate * sum_k q_k s(tau_k) (W_k - V_k)

`V_k` is the model that client k started from, `tau_k` how many models the server has made since, `q_k` equal shares as
in the paper or shares by examples. They are not divided by the sum of the `s`: a stale buffer moves the model less.
Updates are added, while late work of a synchronous federation enters a mean of models; so no part of a `V_k` enters the
model, and there is no row `stale`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def staleness_weight(kind: str, staleness: int, strength: float, grace: int) -> float:
    """`s(tau)`, at most 1: `constant` 1, `polynomial` `1 / (1 + tau)^strength`, `hinge` 1 up to `grace` and then
    `1 / (1 + strength (tau - grace))` (Xie et al. 2019, "Asynchronous Federated Optimization", section 5.2)."""
    match kind:
        case "polynomial":
            return float((1 + staleness) ** -strength)
        case "hinge":
            return 1.0 / (1.0 + strength * max(staleness - grace, 0))
        case _:
            return 1.0


@dataclass(frozen=True)
class Buffered:
    """How a round counts the updates of its buffer, in the order of the stack.

    Attributes:
        staleness: `tau_k`: how many models the server has made since client k started.
        weights: `s(tau_k)`.
        rate: the server's learning rate.
        equal: whether updates count the same, whatever their examples.
    """

    staleness: tuple[int, ...]
    weights: tuple[float, ...]
    rate: float = 1.0
    equal: bool = False

    def only(self, left: Sequence[int]) -> Buffered:
        """Of a buffer of which only the updates at these positions are there."""
        staleness = tuple(self.staleness[position] for position in left)
        return Buffered(staleness, tuple(self.weights[position] for position in left), self.rate, self.equal)
