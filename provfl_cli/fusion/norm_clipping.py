"""Norm clipping (Sun et al. 2019, "Can You Really Backdoor Federated Learning?", section 4, norm thresholding)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..checks import RATE, in_range
from ..imports import later
from .average import example_shares
from .decomposition import Multiplier
from .distances import distances_from
from .fuse import Shares
from .plain import PlainServer
from .updates import Updates

if TYPE_CHECKING:
    import torch
else:
    torch = later("torch")


@dataclass(frozen=True)
class NormClipping(PlainServer):
    """FedAvg of updates scaled down to at most `max_norm`: `A_k = p_k min(1, max_norm / |E_k|)`.

    The norm is that of the distance between the client's model and the global one, over all parameters.
    """

    max_norm: Annotated[float, RATE] = 1.0

    def __post_init__(self) -> None:
        in_range("fusion", self)

    @property
    def averages(self) -> bool:
        """Each client's weight is its own."""
        return True

    def shares(self, updates: Updates) -> Shares:
        """By number of examples, times how much of the update is left."""
        norms = distances_from(updates, torch.zeros(updates.count, dtype=torch.float64))
        left = self.max_norm / norms.clamp(min=self.max_norm)
        return Shares(example_shares(updates.returned.examples), dict.fromkeys(updates.names, Multiplier(left)))
