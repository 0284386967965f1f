"""How far clients moved the model: the norms of what fusion took of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ..fusion.adapters import adapter_pairs, product_squares
from ..fusion.updates import ReturnedModels, unclipped
from ..imports import later
from ..store.rounds import Round

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")


def update_norms(stored: Round, parameters: Collection[str], weighted: bool) -> Tensor:
    """`|A_k o (W_k - V_k)|` over all `parameters`, float64 `[clients]`; buffers are none.

    Of adapters whose products are summed it is that of the products, `|B_k A_k|` (without their scale).

    Args:
        stored: the round.
        parameters: their names, a tied one once.
        weighted: with the client's share `q_k` in `A_k`; without, it is `|M_k o (W_k - V_k)|`.
    """
    parts, sent = stored.decomposition, stored.as_sent()
    previous, stack = sent.previous(), sent.client_stack()
    updates = unclipped(ReturnedModels(previous, stack, stored.examples, (), stored.buffers, stored.bases()))
    pairs = adapter_pairs(parameters) if parts.products else {}
    firsts = frozenset(pairs.values())
    squares = torch.zeros(len(stored.clients), dtype=torch.float64)
    for name in parameters:
        if name in pairs:
            squares += product_squares(stack[pairs[name]], stack[name])
        if name in pairs or name in firsts:
            continue
        multiplier = parts.multipliers.get(name)
        for where in updates.blocks(name):
            moved = updates.own(name, where)
            if multiplier is not None:
                moved *= multiplier.rows(where, tuple(previous[name].shape))
            squares += moved.flatten(1).square().sum(1)
    norms = squares.sqrt()
    return norms * parts.example_weights.abs() if weighted else norms
