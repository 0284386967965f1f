"""How far clients moved the model: the norms of what fusion took of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..store.rounds import Round

BLOCK = 1 << 22  # numbers of all clients that are in memory at a time


def update_norms(stored: Round, parameters: Collection[str], weighted: bool) -> Tensor:
    """`|A_k o (W_k - V_k)|` over all `parameters`, float64 `[clients]`; buffers are none.

    Args:
        stored: the round.
        parameters: their names, a tied one once.
        weighted: with the client's share `q_k` in `A_k`; without, it is `|M_k o (W_k - V_k)|`.
    """
    import torch

    parts, late = stored.decomposition, stored.bases()
    squares = torch.zeros(len(stored.clients), dtype=torch.float64)
    for name in parameters:
        sent, before = stored.client_stack()[name], stored.previous()[name]
        multiplier = parts.multipliers.get(name)
        shape = tuple(before.shape)
        rows = shape[0] if shape else 1
        step = max(1, BLOCK * rows // max(1, sent.numel()))
        for start in range(0, rows, step):
            where = slice(start, start + step)
            block = (sent[:, where] if shape else sent[:, None]).double()
            base = (before[where] if shape else before[None]).double()
            moved = block - base
            for position, started in late.items():
                own = started[name][where] if shape else started[name][None]
                moved[position] = block[position] - own.double()
            if multiplier is not None:
                moved *= multiplier.rows(where, shape)
            squares += moved.flatten(1).square().sum(1)
    norms = squares.sqrt()
    return norms * parts.example_weights.abs() if weighted else norms
