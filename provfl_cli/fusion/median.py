"""The coordinate-wise median (Yin et al. 2018, "Byzantine-Robust Distributed Learning", definition 1, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .plain import PlainServer

if TYPE_CHECKING:
    from .fuse import Shares
    from .updates import Updates


@dataclass(frozen=True)
class Median(PlainServer):
    """Every coordinate moves by the median of the clients' updates, which count equally.

    An even number of clients gives the mean of the middle two. It is the trimmed mean with all but one or two cut.
    """

    def shares(self, updates: Updates) -> Shares:
        """The middle one or two of each coordinate; clients with the same value share equally."""
        import torch

        from .coordinates import middle
        from .fuse import Shares

        cut = (updates.count - 1) // 2
        weights = torch.full((updates.count,), 1 / (updates.count - 2 * cut), dtype=torch.float64)
        return Shares(weights, middle(updates, cut))
