"""Multi-Krum (Blanchard et al. 2017, "Machine Learning with Adversaries", section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..checks import CLIENTS, Range, in_range
from ..errors import InputError
from ..imports import later
from .conditions import check_attackers, clients_a_round, require_returned
from .decomposition import Multiplier
from .distances import squared_distances
from .federation import Federation
from .fuse import Shares
from .krum import krum_scores, lowest
from .plain import PlainServer
from .updates import Updates

if TYPE_CHECKING:
    import torch
else:
    torch = later("torch")


@dataclass(frozen=True)
class MultiKrum(PlainServer):
    """The mean of the `keep` clients with the lowest Krum scores; `n >= 2 attackers + 3`.

    `keep` 1 is Krum, `n` the mean; None keeps `n - attackers`. `weighted` averages them by examples, as Flower does.
    Clients that score exactly the same at the border share equally.
    """

    attackers: Annotated[int, Range(0, CLIENTS.most)] = 1
    keep: Annotated[int | None, CLIENTS] = None
    weighted: bool = False

    def __post_init__(self) -> None:
        in_range("fusion", self)

    def check(self, federation: Federation) -> None:
        """Refuse fewer clients than the paper's condition asks for, or than shall be kept."""
        check_attackers("multi_krum", self.attackers, 2, federation)
        there = clients_a_round(federation)
        if self.keep is not None and self.keep > there:
            raise InputError(f"fusion.keep={self.keep}: a round has {there} clients, fusion.keep={there} at most")

    def shares(self, updates: Updates) -> Shares:
        """One part each to the lowest scores."""
        count = updates.count
        keep = count - self.attackers if self.keep is None else self.keep
        require_returned("multi_krum", count, 2 * self.attackers + 3, f"2 * {self.attackers} + 3")
        require_returned("multi_krum", count, keep, f"fusion.keep={keep}")
        taken = lowest(krum_scores(squared_distances(updates), self.attackers), keep)
        sizes = torch.tensor(list(updates.returned.examples), dtype=torch.float64)
        weights = sizes / (taken @ sizes) if self.weighted else torch.full((count,), 1 / keep, dtype=torch.float64)
        return Shares(weights, dict.fromkeys(updates.names, Multiplier(taken)))
