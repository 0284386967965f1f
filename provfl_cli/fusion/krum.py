"""Krum (Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..checks import CLIENTS, Range, in_range
from ..imports import later
from .conditions import check_attackers, require_returned
from .decomposition import Multiplier
from .distances import squared_distances
from .federation import Federation
from .fuse import Shares
from .plain import PlainServer
from .updates import Updates

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")


@dataclass(frozen=True)
class Krum(PlainServer):
    """The one client whose update has the nearest neighbours, over all parameters; `n >= 2 attackers + 3`.

    Clients that score exactly the same share equally: two that are each other's nearest where only one neighbour
    counts, and clients that returned the same model.
    """

    attackers: Annotated[int, Range(0, CLIENTS.most)] = 1

    def __post_init__(self) -> None:
        in_range("fusion", self)

    def check(self, federation: Federation) -> None:
        """Refuse fewer clients than the paper's condition asks for."""
        check_attackers("krum", self.attackers, 2, federation)

    def shares(self, updates: Updates) -> Shares:
        """All to the lowest score."""
        require_returned("krum", updates.count, 2 * self.attackers + 3, f"2 * {self.attackers} + 3")
        taken = lowest(krum_scores(squared_distances(updates), self.attackers), 1)
        weights = torch.ones(updates.count, dtype=torch.float64)
        return Shares(weights, dict.fromkeys(updates.names, Multiplier(taken)))


def krum_scores(distances: Tensor, attackers: int) -> Tensor:
    """Each client's sum of squared distances to its `n - attackers - 2` nearest others, `[n]`, from all `[n, n]`."""
    neighbours = len(distances) - attackers - 2
    return distances.sort(1).values[:, 1 : neighbours + 1].sum(1)  # the first is its own, 0


def lowest(scores: Tensor, keep: int) -> Tensor:
    """1 for the `keep` lowest scores and 0 for the others, float64 `[n]`; equal ones at the border share equally."""
    border = scores.sort().values[keep - 1]
    below, at = scores < border, scores == border
    return below.double() + at * ((keep - below.sum()) / at.sum().double())
