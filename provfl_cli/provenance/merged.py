"""Rounds that sum products of adapters, put into a model and traced at the adapters' rank (`fusion/adapters.py`).

The model is then `W + s B' A' + s B A` in every layer: `B' A'` what all former rounds have put into the base, a
constant of this round, and `B A` what its clients did, side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..coverage import printable
from ..errors import RunError
from ..fusion.adapters import FIRST, MERGED, SECOND, SideBySide, adapter_pairs, is_merged
from ..fusion.decomposition import ROUNDING
from .calls import Call
from .factors import BLOCK_NUMBERS
from .shared_part import load_part, with_rank
from .stack import FusedRound, Stack


class _Factor(nn.Module):
    """`x -> x weight^T`, by a weight that nobody trains; no `Linear`, which would count as a layer of the model."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[…, in] -> […, out]`."""
        return F.linear(x, self.weight)


def load_round(model: nn.Module, stored: FusedRound) -> None:
    """Copy the global weights of a round into the model that it is of; what the round does not hold stays as it is."""
    prepare(model, stored)
    load_part(model, stored.weights())


def prepare(model: nn.Module, stored: Any) -> None:
    """Give a model's adapters the rank of the round's, and what former rounds put into the base beside them.

    Nothing of a round that does not sum products of adapters.

    Raises:
        RunError: what former rounds put there does not fit the model.
    """
    if not getattr(stored, "products", False):
        return
    load_merged(model, stored.merged())
    weights = stored.weights()
    modules = dict(model.named_modules())
    for name in (name for pair in adapter_pairs(weights).items() for name in pair):
        module: Any = modules.get(name.rpartition(".")[0])
        if isinstance(module, nn.Linear):
            with_rank(module, weights[name].shape)


def load_merged(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put factors by name into the base of adapted layers, in place of those that are there; none: take these out.

    Raises:
        RunError: they do not fit the model.
    """
    pairs = adapter_pairs(tensors)
    if len(tensors) != 2 * len(pairs):
        raise RunError(f"the factors of former rounds are no pairs (of {len(tensors)})")
    wanted = {_layer(name): (tensors[first], tensors[name]) for name, first in pairs.items()}
    for name, layer in model.named_modules():
        firsts: Any = getattr(layer, FIRST, None)
        if not isinstance(firsts, nn.ModuleDict) or not len(firsts):
            continue
        factors = wanted.pop(name, None)
        if factors is not None:
            _put(layer, name, *factors)
        elif MERGED in firsts:
            _take(layer)
    if wanted:
        raise RunError(f"the factors of former rounds are of {printable(next(iter(wanted)))}, no adapted layer")


def merged_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a server's state the factors that former rounds put into the base."""
    return {name: tensors[name] for name in tensors if is_merged(name)}


def _layer(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[: parts.index(SECOND)])


def _put(layer: Any, name: str, a: Tensor, b: Tensor) -> None:
    firsts, seconds = getattr(layer, FIRST), getattr(layer, SECOND)
    (own, *_) = (called for called in firsts if called != MERGED)
    first, second = firsts[own].weight, seconds[own].weight
    fits = a.dim() == b.dim() == 2 and a.shape[1] == first.shape[1] and b.shape == (len(second), len(a))
    if not fits or not (a.is_floating_point() and b.is_floating_point()):
        raise RunError(f"the factors of former rounds do not fit {printable(name)}: {list(a.shape)}, {list(b.shape)}")
    firsts[MERGED] = _Factor(a.to(first.device, first.dtype, copy=True))
    seconds[MERGED] = _Factor(b.to(second.device, second.dtype, copy=True))
    layer.lora_dropout[MERGED], layer.scaling[MERGED] = nn.Identity(), layer.scaling[own]
    layer._active_adapter = [own, MERGED]  # as PEFT's `set_adapter` has it, which would also let both be trained


def _take(layer: Any) -> None:
    for held in (getattr(layer, FIRST), getattr(layer, SECOND), layer.lora_dropout, layer.scaling):
        del held[MERGED]
    layer._active_adapter = [called for called in layer._active_adapter if called != MERGED]


# -- the trace ---------------------------------------------------------------------------------------------------------


def summed_pairs(source: object) -> dict[str, str]:
    """A's name by B's, of a round whose adapters' products were summed; none of others, and under other names."""
    stack = source.client_stack() if hasattr(source, "client_stack") else None
    return dict(stack.pairs) if isinstance(stack, SideBySide) else {}


def summed_rows(call: Call, g: Tensor, stack: Stack) -> Tensor:
    """All stack rows of one adapted layer, `[batch, rows]`, in the type of sums: `< B_k A_k, g (x) z >` of each client.

    Of the previous model nothing is there, since `B` was 0; a row `rounding` has what storing `q_k B_k` took away.

    Args:
        call: of B, which reads what all A put out, side by side.
        g: the gradient of the target in what B puts out, masked, inputs in front. The scale `s` comes after B.
        stack: of such a round.
    """
    (name,) = call.weights["weight"].names
    sent = stack.source.client_stack()  # type: ignore[union-attr]
    assert isinstance(sent, SideBySide)
    b = sent.sent[name].to(g.device, g.dtype)  # [clients, out, rank]
    clients, outputs, rank = b.shape
    u = call.data("input").to(g.dtype)
    batch = len(g)
    result = g.new_zeros(batch, stack.rows, dtype=stack.wide)
    u, g = u.reshape(batch, -1, clients * rank), g.reshape(batch, -1, outputs)
    example = torch.arange(batch, device=g.device).repeat_interleave(u.shape[1])
    u, g = u.reshape(-1, clients * rank), g.reshape(-1, outputs)
    columns = b.transpose(0, 1).reshape(outputs, -1)
    lost = None
    if ROUNDING in stack.kinds:
        shares = stack.source.decomposition.example_weights.to(g.device, g.dtype)
        stored = stack.source.weights()[name].to(g.device, g.dtype)
        lost = stored - columns * shares.repeat_interleave(rank)
    step = max(1, (stack.numbers or BLOCK_NUMBERS) // max(1, clients * rank))
    for at in range(0, len(u), step):
        where = slice(at, at + step)
        parts = (u[where] * (g[where] @ columns)).view(-1, clients, rank).sum(2)
        result[:, : stack.size].index_add_(0, example[where], parts.to(stack.wide))
        if lost is not None:
            row = stack.size + stack.kinds.index(ROUNDING)
            missing = (u[where] * (g[where] @ lost)).sum(1)
            result[:, row].index_add_(0, example[where], missing.to(stack.wide))
    return result
