"""Fusions of Flower's strategies that take what the strategy itself chose, as this was observed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..fusion.decomposition import Multiplier, pack
from ..fusion.fuse import Shares
from ..fusion.plain import PlainServer
from ..fusion.updates import Updates, norms


@dataclass(frozen=True)
class ChosenClients(PlainServer):
    """The average, by weight, of the clients that the strategy chose (Krum, MultiKrum), which moves the model by so
    many times itself."""

    taken: tuple[bool, ...] = ()
    step: float = 1.0

    def shares(self, updates: Updates) -> Shares:
        """The weights of those chosen, over their sum."""
        taken = torch.tensor(self.taken, dtype=torch.float64)
        sizes = torch.tensor(list(updates.returned.examples), dtype=torch.float64)
        return Shares(sizes / (taken @ sizes), dict.fromkeys(updates.names, Multiplier(taken)))

    def scale(
        self, delta: Tensor, state: Mapping[str, Tensor], number: int
    ) -> tuple[float | Tensor, dict[str, Tensor]]:
        """The server's step."""
        return self.step, {}


@dataclass(frozen=True)
class MeasuredShares(PlainServer):
    """`A_k` as they were measured, a number a client; `q_k` is its share by weight, or an equal one."""

    coefficients: tuple[float, ...] = ()

    def shares(self, updates: Updates) -> Shares:
        """The coefficients as multiples of the shares."""
        sizes = torch.tensor(list(updates.returned.examples), dtype=torch.float64)
        if not bool((sizes > 0).all()):
            sizes = torch.ones_like(sizes)
        weights = sizes / sizes.sum()
        multiples = torch.tensor(self.coefficients, dtype=torch.float64) / weights
        return Shares(weights, dict.fromkeys(updates.names, Multiplier(multiples)))


@dataclass(frozen=True)
class NearestClients(PlainServer):
    """Of the clients that the strategy chose, coordinate by coordinate the mean of the `keep` values nearest to their
    median (Bulyan). Median, distances and ties are numpy's in the type of the model, as in the strategy, since rounding
    decides between values that are equally far away on either side.
    """

    taken: tuple[bool, ...] = ()
    keep: int = 1

    def shares(self, updates: Updates) -> Shares:
        """A bit for every client and coordinate."""
        made = {}
        for name in updates.names:
            before = updates.returned.previous[name]
            bits = torch.cat([self._bits(updates, name, where) for where in updates.blocks(name)], 1)
            made[name] = Multiplier(
                torch.ones(updates.count, dtype=torch.float64), bits=bits[None], values=torch.ones_like(before)[None]
            )
        return Shares(torch.full((updates.count,), 1 / self.keep, dtype=torch.float64), made)

    def _bits(self, updates: Updates, name: str, where: slice) -> Tensor:
        """Which clients count, packed: uint8 `[clients, rows, bytes]`."""
        before = updates.returned.previous[name]
        rows = updates.rows(name, where)
        whole = before[None] if before.dim() == 0 else before
        values = (rows + whole[where].double()).to(updates.returned.clients[name].dtype)
        positions = np.flatnonzero(self.taken)
        chosen = values[torch.from_numpy(positions)].numpy()
        far = np.abs(chosen - np.median(chosen, axis=0))
        nearest = np.argpartition(far, self.keep - 1, axis=0)[: self.keep]
        mask = torch.zeros(rows.shape, dtype=torch.bool)
        mask.scatter_(0, torch.from_numpy(positions[nearest]), True)
        return pack(mask.reshape(*mask.shape[:2], -1))


@dataclass(frozen=True)
class FairAverage(PlainServer):
    """q-FedAvg (Li et al. 2020, "Fair Resource Allocation in Federated Learning", algorithm 2).

    `A_k = L F_k^q / sum_j h_j` with `h_j = q F_j^(q-1) |L D_j|^2 + L F_j^q`, `F` the clients' losses.
    """

    losses: tuple[float, ...] = ()
    q: float = 0.1
    lipschitz: float = 1.0

    def shares(self, updates: Updates) -> Shares:
        """One number a client; they do not add up to 1."""
        losses = torch.tensor(self.losses, dtype=torch.float64) + 1e-10  # as Flower keeps it from 0
        squares = (self.lipschitz * norms(updates)).square()
        power = losses**self.q
        total = (self.q * losses ** (self.q - 1) * squares + self.lipschitz * power).sum()
        return Shares(self.lipschitz * power / total)
