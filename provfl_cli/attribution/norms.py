"""How far clients moved the model: the norms of what fusion took of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import lazy_loader as lazy

from ..fusion.updates import ReturnedModels, unclipped
from ..store.rounds import Round

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy.load("torch")


def update_norms(stored: Round, parameters: Collection[str], weighted: bool) -> Tensor:
    """`|A_k o (W_k - V_k)|` over all `parameters`, float64 `[clients]`; buffers are none.

    Args:
        stored: the round.
        parameters: their names, a tied one once.
        weighted: with the client's share `q_k` in `A_k`; without, it is `|M_k o (W_k - V_k)|`.
    """
    parts, previous = stored.decomposition, stored.previous()
    updates = unclipped(
        ReturnedModels(previous, stored.client_stack(), stored.examples, (), stored.buffers, stored.bases())
    )
    squares = torch.zeros(len(stored.clients), dtype=torch.float64)
    for name in parameters:
        multiplier = parts.multipliers.get(name)
        for where in updates.blocks(name):
            moved = updates.own(name, where)
            if multiplier is not None:
                moved *= multiplier.rows(where, tuple(previous[name].shape))
            squares += moved.flatten(1).square().sum(1)
    norms = squares.sqrt()
    return norms * parts.example_weights.abs() if weighted else norms
