"""A stored round seen over all rounds: attribution to every client that ever took part (design section 2, "Lineage").

The global model is `W_T = W_0 + sum_k acc_k + U`, so contracting `acc_k` in place of `A_k o (W_k - V_k)` credits each
client with everything it ever sent; `W_0` takes the place of the previous model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..errors import RunError
from ..fusion.decomposition import Decomposition
from ..fusion.lineage import PLAIN, WEIGHTED, Lineage
from ..store.rounds import Round


@dataclass(frozen=True)
class LineageRound:
    """What a trace needs of a round's lineage; `lineage_round` makes one of a stored round.

    Attributes:
        after: the global tensors after the round, `W_T`.
        lineage: what they are made of.
    """

    after: Mapping[str, Tensor]
    lineage: Lineage

    @property
    def clients(self) -> Sequence[int]:
        """All clients that ever took part, in the order of the rows."""
        return self.lineage.rows.clients

    @cached_property
    def decomposition(self) -> Decomposition:
        """Accumulators enter the model as they are: 1 for every client that fusion ever used."""
        rows = self.lineage.rows
        used = torch.tensor([float(client in rows.used) for client in rows.clients], dtype=torch.float64)
        return Decomposition(used, {}, {kind: {} for kind in rows.kinds})

    def weights(self) -> Mapping[str, Tensor]:
        """`W_T`: the global tensors after the round."""
        return self.after

    def previous(self) -> Mapping[str, Tensor]:
        """`W_0`: the initial model."""
        return self.lineage.initial

    def weighted(self, name: str) -> Tensor:
        """`acc_k` of a parameter, then what no client sent, in the order of the decomposition's kinds: `[rows, …]`."""
        return self.lineage.tensors[f"{WEIGHTED}/{name}"]

    def plain(self, name: str) -> Tensor:
        """`acc_k` of a parameter without the `q_k`, `[clients, *shape]`."""
        return self.lineage.tensors[f"{PLAIN}/{name}"]


def lineage_round(stored: Round) -> LineageRound:
    """The lineage of a stored round.

    Raises:
        RunError: the federation was trained without.
    """
    lineage = stored.lineage()
    if lineage is None:
        raise RunError(
            f"{stored.folder} was trained without lineage: provenance.scope=lineage trains the federation with it"
        )
    return LineageRound(stored.weights(), lineage)
