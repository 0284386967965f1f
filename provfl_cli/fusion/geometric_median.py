"""RFA, the geometric median (Pillutla et al. 2022, "Robust Aggregation for Federated Learning", algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..checks import RATE, Range, in_range
from .average import example_shares
from .decomposition import Multiplier
from .distances import distances_from
from .fuse import Shares
from .plain import PlainServer
from .updates import Updates


@dataclass(frozen=True)
class GeometricMedian(PlainServer):
    """The point with the least sum of distances to the clients' models, weighted by examples.

    Found by the smoothed Weiszfeld algorithm from the weighted mean: `iterations` times, the mean again with weights
    `p_k / max(epsilon, |E_k - mean|)`. The last weights are the clients' shares.
    """

    iterations: Annotated[int, Range(1, 10_000)] = 3
    epsilon: Annotated[float, RATE] = 1e-6

    def __post_init__(self) -> None:
        in_range("fusion", self)

    def shares(self, updates: Updates) -> Shares:
        """By number of examples over the distance to the mean of the last step but one."""
        weights = example_shares(updates.returned.examples)
        point = weights
        for _ in range(self.iterations):
            nearness = 1 / distances_from(updates, point).clamp(min=self.epsilon)
            nearness /= weights @ nearness
            point = weights * nearness
        return Shares(weights, dict.fromkeys(updates.names, Multiplier(nearness)))
