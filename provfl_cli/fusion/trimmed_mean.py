"""The coordinate-wise trimmed mean (Yin et al. 2018, "Byzantine-Robust Distributed Learning", definition 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor
from typing import TYPE_CHECKING, Annotated

from ..checks import CLIENTS, Range, in_range
from ..errors import InputError
from ..imports import later
from .conditions import clients_a_round, require_returned
from .coordinates import middle
from .federation import Federation
from .fuse import Shares
from .plain import PlainServer
from .updates import Updates

if TYPE_CHECKING:
    import torch
else:
    torch = later("torch")


@dataclass(frozen=True)
class TrimmedMean(PlainServer):
    """Every coordinate moves by the mean of the clients' updates without the lowest and the highest ones.

    From each end `count` clients are cut, or where that is None `fraction` of them, rounded down.
    """

    fraction: Annotated[float, Range(0, 0.5, open_most=True)] = 0.2  # it is cut at each end
    count: Annotated[int | None, Range(0, CLIENTS.most)] = None

    def __post_init__(self) -> None:
        in_range("fusion", self)

    def check(self, federation: Federation) -> None:
        """Refuse a `count` that leaves nobody."""
        there = clients_a_round(federation)
        if 2 * self.cut(there) >= there:
            raise InputError(
                f"fusion.count={self.count}: cut at each end of {there} clients it leaves nobody: "
                f"at most fusion.count={(there - 1) // 2}"
            )

    def fixed(self, clients: int) -> TrimmedMean:
        """With the number that is cut of so many clients."""
        return replace(self, count=self.cut(clients))

    def cut(self, clients: int) -> int:
        """How many of so many clients are cut from each end."""
        return floor(self.fraction * clients + 1e-9) if self.count is None else self.count

    def shares(self, updates: Updates) -> Shares:
        """Those between the borders of each coordinate; clients with the same value at a border share equally."""
        cut = self.cut(updates.count)
        require_returned("trimmed_mean", updates.count, 2 * cut + 1, f"{cut} are cut at each end")
        weights = torch.full((updates.count,), 1 / (updates.count - 2 * cut), dtype=torch.float64)
        return Shares(weights, middle(updates, cut))
