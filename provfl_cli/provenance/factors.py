"""The three forms that a per-example parameter gradient takes, and its inner product with stacked clients.

For one use of a parameter, section 2.4 of the design needs `<X_k, G_b>` for every input `b` and row `k` of a stack of
client tensors, where `G_b = sum_positions (mask o g_b) (x) z_b`. A layer rule hands the two factors of `G` over in one
of the forms below; none of them depends on the client, which is why one backward pass serves all clients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Takes what it wants of the last dimensions of a parameter, `[…, rows, *rest]`, as a view: no copy of the rest is made.
Select = Callable[[Tensor], Tensor]
# Reads rows of the stack, by index or slice of the parameter's first dimension: `[stack, rows, *selected]`.
Block = Callable[[slice | Tensor, Select | None], Tensor]

# Numbers in one block: few enough to be still in the cache when they are read again; with many positions, where forming
# `G` is what takes the time, up to four times as many, since a product of few rows is slow.
BLOCK_NUMBERS = 1 << 20
FEW = 8  # neurons that are looked at first
# Of forming a gradient: its memory traffic, and for each position and each client; in units of `outputs_are_cheaper`.
# On an H100 (64 inputs, weights of 512 x 1152, torch 2.11), nanoseconds for one weight and input, by outputs | by
# gradient: 1 position and 10 clients 0.0044 | 0.0114, 1 and 100 0.0165 | 0.0142, 4 and 10 0.0052 | 0.0097, 4 and 50
# 0.0146 | 0.0116, 16 and 10 0.0116 | 0.0091, 16 and 50 0.042 | 0.011, 64 and 10 0.032 | 0.011, 64 and 100 0.31 | 0.016.
# In units of 4.8e-5 ns: `64 + 1.75 clients + positions * clients` against `200 + 0.4 positions + clients`. Reading the
# clients costs the first way more, which is why their number counts for the second one.
COSTS = {"cpu": (24, 1.2, 0.8), "cuda": (136, 0.4, -0.75)}


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

    `left` is `[batch, O, T]`, `right` `[batch, groups, I, T]`; the parameter's dimensions behind the first, flattened,
    are the `I` of `right`, after `select` has dropped what is identically zero. `transposed` says that `right` is what
    is made of the gradient (a weight stored `[inputs, outputs]`), and `left` what the layer received.
    """

    left: Tensor
    right: Tensor
    select: Select | None = None
    transposed: bool = False


Factor = Dense | Gather | Outer


def contract(factor: Factor, block: Block, stack: int, numbers: int | None = None) -> Tensor:
    """`<X_k, G_b>` for every input and each of the `stack` rows: `[batch, stack]`, in the type of the factors.

    `numbers` are those of one block, None: as few as stay in the cache of a CPU.
    """
    numbers = numbers or BLOCK_NUMBERS
    if isinstance(factor, Dense):
        gradient = factor.gradient.reshape(len(factor.gradient), -1)  # of a scalar parameter: one number an input
        return gradient @ block(slice(None), None).reshape(stack, -1).T
    if isinstance(factor, Gather):
        return _contract_gather(factor, block, numbers)
    return _contract_outer(factor, block, stack, numbers)


def _contract_gather(factor: Gather, block: Block, numbers: int) -> Tensor:
    # Positions without gradient (padding, masked neurons) need no look at any client.
    alive = (factor.values != 0).any(2)
    used, position = factor.rows[alive].unique(return_inverse=True)
    example = torch.arange(len(alive), device=alive.device)[:, None].expand_as(alive)[alive]
    values = factor.values[alive]
    stack = block(used, None)
    result = values.new_zeros(len(alive), len(stack))
    step = max(1, numbers // max(1, values.numel()))
    for k in range(0, len(stack), step):
        result[:, k : k + step].index_add_(0, example, torch.linalg.vecdot(stack[k : k + step, position], values).T)
    return result


def _contract_outer(factor: Outer, block: Block, stack: int, numbers: int) -> Tensor:
    if len(factor.left) > 1 and factor.right.shape[1] == 1:
        if factor.right.stride(0) == 0:
            return _contract_of_one_text(factor, block, stack, numbers)
        if factor.left.stride(0) == 0 and stack <= len(factor.left):
            return _contract_transposed_of_one_text(factor, block, stack, numbers)
    factor = _live_positions(factor)
    batch, groups, inputs, positions = factor.right.shape
    if positions == 0:  # an expert that no input was sent to
        return factor.left.new_zeros(batch, stack)
    per_group = factor.left.shape[1] // groups
    by_outputs = outputs_are_cheaper(positions, stack, factor.left.device.type)
    widest = max(inputs, batch * positions) * stack if by_outputs else inputs * max(batch, stack)
    numbers = numbers if by_outputs else numbers * min(max(positions, 4), 16) // 4
    step = max(1, numbers // widest)
    total = factor.left.new_zeros(batch, stack)
    for group in range(groups):
        first = group * per_group
        left, right = factor.left[:, first : first + per_group], factor.right[:, group]
        rows = _live_rows(left, inputs)
        count = per_group if rows is None else len(rows)
        contracted = _Outputs(left, right) if by_outputs else _Gradient(left, right)
        for start in range(0, count, step):
            end = min(count, start + step)
            if rows is None:  # a slice reads a view where an index would copy
                total += contracted(slice(start, end), block(slice(first + start, first + end), factor.select))
            else:
                total += contracted(rows[start:end], block(rows[start:end] + first, factor.select))
    return total


def _contract_of_one_text(factor: Outer, block: Block, stack: int, numbers: int) -> Tensor:
    """The same where all inputs of the batch have the same `right`: tokens of one text, each with its own gradient."""
    alive = (factor.left != 0).flatten(0, 1).any(0)
    left, right = factor.left[:, :, alive], factor.right[0, 0][:, alive]
    batch, outputs, positions = left.shape
    inputs = len(right)
    total = left.new_zeros(batch, stack)
    if not positions:
        return total
    # Every client's outputs once for all tokens, or the gradient of each; units as in `outputs_are_cheaper`.
    by_outputs = positions * stack * (1 + batch / inputs) < batch * (24 + 1.2 * positions + 0.8 * stack)
    step = max(1, numbers // (max(inputs, positions) * stack if by_outputs else inputs * max(batch, stack)))
    for start in range(0, outputs, step):
        rows = slice(start, min(outputs, start + step))
        clients, g = block(rows, factor.select).flatten(2), left[:, rows]  # [stack, rows, I], [batch, rows, T]
        if by_outputs:
            made = clients.reshape(-1, inputs) @ right  # [stack * rows, T]
            total += g.reshape(batch, -1) @ made.view(stack, -1).T
        else:
            gradient = g.reshape(-1, positions) @ right.T  # [batch * rows, I]
            total += (clients.flatten(1) @ gradient.view(batch, -1).T).T
    return total


def _contract_transposed_of_one_text(factor: Outer, block: Block, stack: int, numbers: int) -> Tensor:
    """The same where the common side is `left`: weights that are stored `[inputs, outputs]`."""
    g = factor.right[:, 0]  # [batch, outputs, T]
    alive = (g != 0).flatten(0, 1).any(0)
    g, z = g[:, :, alive], factor.left[0][:, alive]
    batch, outputs, positions = g.shape
    if not positions:
        return g.new_zeros(batch, stack)
    made = g.new_zeros(stack, outputs, positions)
    step = max(1, numbers // (outputs * stack))
    for start in range(0, len(z), step):
        rows = slice(start, min(len(z), start + step))
        clients = block(rows, factor.select).flatten(2)  # [stack, rows, outputs]
        made += clients.transpose(1, 2) @ z[rows]
    return g.reshape(batch, -1) @ made.view(stack, -1).T


def _live_positions(factor: Outer) -> Outer:
    """Without positions that have no gradient: padding, and what a text's last layers never hand on.

    Inputs may have different ones: as many are kept of each as the most that any has.
    """
    outputs, positions = factor.left.shape[1:]
    # Looking costs as much as what it may save; and on a GPU, what else it could be asked for meanwhile.
    if positions < 4 or min(outputs, factor.right.shape[2]) < 64 or factor.left.is_cuda:
        return factor
    gradient = factor.right.flatten(1, 2) if factor.transposed else factor.left
    for seen in (gradient[:, :FEW], gradient):  # a few neurons mostly show that all is alive
        alive = (seen != 0).any(1)
        most = int(alive.sum(1).max())
        if 4 * most > 3 * positions:
            return factor
    if most == 0:
        return factor
    kept = alive.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    left = factor.left.gather(2, kept[:, None].expand(-1, factor.left.shape[1], -1))
    right = factor.right.gather(3, kept[:, None, None].expand(*factor.right.shape[:3], -1))
    return replace(factor, left=left, right=right)


def _live_rows(left: Tensor, inputs: int) -> Tensor | None:
    """Rows that some input reaches with a gradient; None for all, also where leaving some out would not pay."""
    _, rows, positions = left.shape
    if 4 * positions > inputs or left.is_cuda:  # looking costs as much as what it may save
        return None
    live = left.abs().amax((0, 2)).nonzero().squeeze(1)
    return None if 4 * len(live) > 3 * rows else live


def outputs_are_cheaper(positions: int, stack: int, device: str = "cpu") -> bool:
    """Whether evaluating every client's layer beats forming the gradient, for one weight and one input.

    - By outputs: `positions * stack` multiplications in one large matrix product, which runs at full speed.
    - By gradient: `positions` multiplications to form a number of `G`, which is written and read once, and `stack` to
      contract it, in a product too narrow to run at full speed.

    In units of one multiplication of the first kind the second way costs `24 + 1.2 positions + 0.8 stack`, measured on
    two AVX-512 cores with MKL (`scripts/bench_provenance.py --calibrate` prints these for another machine). So few
    positions favour the first way, whatever the number of clients: a fully connected layer has one. On a GPU (`COSTS`)
    the second way is the faster one from some 80 clients on, with one position too.
    """
    moved, formed, contracted = COSTS.get(device, COSTS["cpu"])
    return positions * stack < moved + formed * positions + contracted * stack


class _Gradient:
    """`<X_k, G_b>` with `G` formed, a block of rows at a time."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left, self.right = left, right.transpose(1, 2)

    def __call__(self, rows: slice | Tensor, clients: Tensor) -> Tensor:
        gradient = self.left[:, rows] @ self.right  # [batch, rows, I]
        # One product for each row: `[stack, I] x [I, batch]` lies in the cache. In this order the long dimension is
        # read in the order in which it lies: twice as fast as the other way round.
        return torch.bmm(clients.flatten(2).transpose(0, 1), gradient.permute(1, 2, 0)).sum(0).T


class _Outputs:
    """`<left_b, X_k right_b>`: every client's outputs, and their inner product with the gradient."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.batch, inputs, self.positions = right.shape
        self.left = left.transpose(0, 1).reshape(left.shape[1], -1)  # [rows, batch * T]
        self.right = right.transpose(0, 1).reshape(inputs, -1)  # [I, batch * T]

    def __call__(self, rows: slice | Tensor, clients: Tensor) -> Tensor:
        stack, count = clients.shape[:2]
        outputs = clients.reshape(stack * count, -1) @ self.right
        dotted = outputs.view(stack, count, -1).mul_(self.left[rows]).sum(1)
        return dotted.view(stack, self.batch, self.positions).sum(2).T
