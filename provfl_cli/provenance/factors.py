"""The three forms that a per-example parameter gradient takes, and its inner product with stacked clients.

For one use of a parameter, section 2.4 of the design needs `<X_k, G_b>` for every input `b` and row `k` of a stack of
client tensors, where `G_b = sum_positions (mask o g_b) (x) z_b`. A layer rule hands the two factors of `G` over in one
of the forms below; none of them depends on the client, which is why one backward pass serves all clients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Reads rows of the stack: block(indices of the parameter's first dimension or a slice) -> [stack, rows, *rest].
Block = Callable[[slice | Tensor], Tensor]

BLOCK_NUMBERS = 1 << 21  # numbers in one block of G: small enough to be still in the cache when it is contracted


@dataclass(frozen=True)
class Dense:
    """`G` itself, `[batch, *shape]`: for parameters as small as a bias, and for the fallback."""

    gradient: Tensor


@dataclass(frozen=True)
class Gather:
    """`G_b` has `values[b, t]` in row `rows[b, t]`: embeddings. `rows` int64 `[batch, T]`, `values` `[batch, T, D]`."""

    rows: Tensor
    values: Tensor


@dataclass(frozen=True)
class Outer:
    """`G_b[o, i] = sum_t left[b, o, t] right[b, i, t]`, the parameter seen as `[O, I]`; with groups, group by group.

    `left` is `[batch, O, T]`, `right` `[batch, groups, I, T]`, `columns` turns `[stack, rows, *rest]` of the parameter
    into `[stack, rows, I]` in the order of `right` (it may drop what is identically zero).
    """

    left: Tensor
    right: Tensor
    columns: Callable[[Tensor], Tensor]


Factor = Dense | Gather | Outer


def contract(factor: Factor, block: Block) -> Tensor:
    """`<X_k, G_b>` for every input and stacked row: float64 `[batch, stack]`."""
    if isinstance(factor, Dense):
        gradient = factor.gradient
        rows = block(slice(0, gradient.shape[1] if gradient.dim() > 1 else None))
        return (gradient.flatten(1) @ rows.flatten(1).T.to(gradient.dtype)).double()
    if isinstance(factor, Gather):
        return _contract_gather(factor, block)
    return _contract_outer(factor, block)


def _contract_gather(factor: Gather, block: Block) -> Tensor:
    used, position = factor.rows.unique(return_inverse=True)
    # Positions without gradient (padding, masked neurons) need no look at any client.
    alive = (factor.values != 0).any(2)
    example = torch.arange(len(alive), device=alive.device)[:, None].expand_as(alive)[alive]
    values = factor.values[alive]
    stack = block(used)
    result = torch.zeros(len(alive), len(stack), dtype=torch.float64, device=alive.device)
    for k, rows in enumerate(stack):
        products = torch.linalg.vecdot(rows[position[alive]].to(values.dtype), values).double()
        result[:, k].index_add_(0, example, products)
    return result


def _contract_outer(factor: Outer, block: Block) -> Tensor:
    batch, outputs, positions = factor.left.shape
    groups, inputs = factor.right.shape[1:3]
    per_group = outputs // groups
    alive = (factor.left != 0).any(0).any(1)
    result: Tensor | float = 0.0
    for group in range(groups):
        first = group * per_group
        rows = alive[first : first + per_group].nonzero().squeeze(1) + first
        everything = len(rows) == per_group
        right = factor.right[:, group]
        step = max(1, BLOCK_NUMBERS // max(1, batch * inputs))
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            # A slice reads a view where an index would copy.
            where = slice(first + start, first + start + len(chosen)) if everything else chosen
            clients = factor.columns(block(where)).to(right.dtype)
            left = factor.left[:, where]
            way = _by_outputs if outputs_are_cheaper(positions, len(clients)) else _by_gradient
            result = result + way(left, right, clients).double()
    if isinstance(result, float):  # no neuron is alive
        result = torch.zeros(batch, len(block(slice(0, 1))), dtype=torch.float64, device=factor.left.device)
    return result


def outputs_are_cheaper(positions: int, stack: int) -> bool:
    """Whether evaluating every client's layer beats forming the gradient.

    Per input and per weight, forming `G` and contracting it costs `positions + stack` multiplications, and one number
    written and read; evaluating every client's layer costs `positions * stack` multiplications inside one large
    matrix product. Memory traffic is what makes the second way win for few positions.
    """
    return positions * stack < 2 * (positions + stack) + 16


def _by_gradient(left: Tensor, right: Tensor, clients: Tensor) -> Tensor:
    gradient = left @ right.transpose(1, 2)  # [batch, rows, I]
    return gradient.flatten(1) @ clients.flatten(1).T


def _by_outputs(left: Tensor, right: Tensor, clients: Tensor) -> Tensor:
    batch, inputs, positions = right.shape
    stack, rows, _ = clients.shape
    flat = right.transpose(1, 2).reshape(batch * positions, inputs)
    outputs = (flat @ clients.reshape(stack * rows, inputs).T).view(batch, positions, stack, rows)
    return torch.einsum("btkr,brt->bk", outputs, left)
