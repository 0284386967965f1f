"""Bulyan of Krum (El Mhamdi et al. 2018, "The Hidden Vulnerability of Distributed Learning", section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..checks import CLIENTS, Range, in_range, one_of
from ..imports import later
from .conditions import check_attackers, require_returned
from .coordinates import nearest_to_median
from .distances import squared_distances
from .federation import Federation
from .fuse import Shares
from .krum import krum_scores, lowest
from .plain import PlainServer
from .updates import Updates

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")


@dataclass(frozen=True)
class Bulyan(PlainServer):
    """Krum again and again selects `theta = n - 2 attackers` clients; of their values, coordinate by coordinate, the
    `theta - 2 attackers` nearest to the median are averaged. `n >= 4 attackers + 3`.

    `selection` `iterated` is the paper's: a client selected is taken away before the next one is. `once` takes those
    with the lowest scores among all, as Flower does.
    """

    attackers: Annotated[int, Range(0, CLIENTS.most)] = 1
    selection: str = "iterated"

    def __post_init__(self) -> None:
        in_range("fusion", self)
        one_of("fusion.selection", self.selection, ("iterated", "once"))

    def check(self, federation: Federation) -> None:
        """Refuse fewer clients than the paper's condition asks for."""
        check_attackers("bulyan", self.attackers, 4, federation)

    def shares(self, updates: Updates) -> Shares:
        """Those that are selected and near the median; clients with the same value at the border share equally."""
        count, attackers = updates.count, self.attackers
        require_returned("bulyan", count, 4 * attackers + 3, f"4 * {attackers} + 3")
        distances = squared_distances(updates)
        select, keep = count - 2 * attackers, count - 4 * attackers
        if self.selection == "once":
            masses = lowest(krum_scores(distances, attackers), select)
        else:
            masses = iterated_krum(distances, attackers, select)
        weights = torch.full((count,), 1 / keep, dtype=torch.float64)
        return Shares(weights, nearest_to_median(updates, masses, keep))


def iterated_krum(distances: Tensor, attackers: int, select: int) -> Tensor:
    """1 for the clients that Krum selects one after the other, each taken away before the next: float64 `[n]`.

    With few left few neighbours count, in the end none, and two that are each other's nearest have the same score: then
    the next nearest neighbours decide, one by one. Clients that returned the same model share what was selected of
    them equally.
    """
    left = list(range(len(distances)))
    selected = torch.zeros(len(distances), dtype=torch.float64)
    for _ in range(select):
        near = distances[left][:, left].sort(1).values[:, 1:]
        counted = max(len(left) - attackers - 2, 0)
        keys = torch.cat([near[:, :counted].sum(1, keepdim=True), near[:, counted:]], 1).tolist()
        selected[left.pop(keys.index(min(keys)))] = 1
    same = (distances == 0).double()
    return same @ selected / same.sum(1)
