"""The coordinate-wise median (Yin et al. 2018, "Byzantine-Robust Distributed Learning", definition 1, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..imports import later
from .coordinates import middle
from .fuse import Shares
from .plain import PlainServer
from .updates import Updates

if TYPE_CHECKING:
    import torch
else:
    torch = later("torch")


@dataclass(frozen=True)
class Median(PlainServer):
    """Every coordinate moves by the median of the clients' updates, which count equally.

    An even number of clients gives the mean of the middle two. It is the trimmed mean with all but one or two cut.
    """

    def shares(self, updates: Updates) -> Shares:
        """The middle one or two of each coordinate; clients with the same value share equally."""
        cut = (updates.count - 1) // 2
        weights = torch.full((updates.count,), 1 / (updates.count - 2 * cut), dtype=torch.float64)
        return Shares(weights, middle(updates, cut))
