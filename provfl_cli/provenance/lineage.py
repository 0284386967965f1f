"""A stored round seen over all rounds: attribution to every client that ever took part (design section 2, "Lineage").

The global model is `W_T = W_0 + sum_k acc_k + U`, so contracting `acc_k` in place of `A_k o (W_k - V_k)` credits each
client with everything it ever sent; `W_0` takes the place of the previous model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from ..errors import RunError
from ..fusion.decomposition import Decomposition
from ..fusion.lineage_rows import FORGOTTEN, PLAIN, WEIGHTED, Lineage, LineageRows, Part
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

    def weighted(self, name: str) -> Iterator[Part]:
        """`acc_k` of a parameter, then what no client sent, in the order of the decomposition's kinds, file by file."""
        return self.lineage.parts(f"{WEIGHTED}/{name}")

    def plain(self, name: str) -> Iterator[Part]:
        """`acc_k` of a parameter without the `q_k`, file by file."""
        return self.lineage.parts(f"{PLAIN}/{name}")


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


def lineage_decayed(stored: Round, earlier: Sequence[Round], decay: float) -> LineageRound:
    """The lineage of a stored round as if accumulators had been kept with another decay, without training again.

    A round moves a client's accumulator by `acc_t - d0 acc_{t-1}`, `d0` the decay that it was stored with. Moves that
    count `decay` less from round to round add up to a sum of stored accumulators:
    `acc_T - (d0 - decay) sum_{t<T} decay^(T-1-t) acc_t`. What they fall short of the model is the row `forgotten`.

    Args:
        stored: the round `T`.
        earlier: all rounds before it, in order; needed where `decay` is not that of the accumulators stored.
        decay: what is kept of every contribution from one round to the next; 1: all.

    Raises:
        RunError: the federation was trained without lineage, or an earlier round is missing.
    """
    whole = lineage_round(stored)
    rows = whole.lineage.rows
    if decay == rows.decay:
        return whole
    if [each.number for each in earlier] != list(range(1, stored.number)):
        raise RunError(
            f"{stored.folder}: a lineage with decay {decay:g} is made of all rounds, and some of them are not kept: "
            "store.keep=all keeps them"
        )
    before = [lineage_round(each).lineage for each in earlier]
    kinds = (*(kind for kind in rows.kinds if kind != FORGOTTEN), *((FORGOTTEN,) if decay < 1 else ()))
    again = replace(rows, kinds=kinds, decay=decay, held=())  # all are computed
    return LineageRound(whole.after, replace(whole.lineage, rows=again, tensors=_Decayed(whole.lineage, before, again)))


class _Decayed(Mapping[str, Tensor]):
    """The accumulators `last` after those of the rounds before, `earlier`, with the decay of `rows`.

    Each is computed when it is asked for; the latest few are kept, since a trace asks for a tensor part by part.
    """

    def __init__(self, last: Lineage, earlier: Sequence[Lineage], rows: LineageRows) -> None:
        self.last = last
        self.earlier = earlier
        self.rows = rows
        self.read = lru_cache(maxsize=2)(self._computed)

    def __getitem__(self, name: str) -> Tensor:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.last.tensors)

    def __len__(self) -> int:
        return len(self.last.tensors)

    def _computed(self, name: str) -> Tensor:
        stored, decay, positions = self.last.tensors[name], self.rows.decay, self.last.rows.positions
        kept = stored.double()
        total = kept.sum(0)
        for age, lineage in enumerate(reversed(self.earlier)):
            factor = (self.last.rows.decay - decay) * decay**age
            old = lineage.tensors[name]
            moved = [row for row, at in lineage.rows.positions.items() if row != FORGOTTEN and at < len(old)]
            to, of = ([each[row] for row in moved] for each in (positions, lineage.rows.positions))
            kept[to] -= factor * old[of]
        if not name.startswith(f"{WEIGHTED}/"):
            return kept.to(stored.dtype)
        kept = kept[[at for row, at in positions.items() if row != FORGOTTEN]]
        if FORGOTTEN in self.rows.kinds:
            kept = torch.cat([kept, (total - kept.sum(0))[None]])
        return kept.to(stored.dtype)
