"""Look-ups: a layer whose input is one-hot."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..calls import Call
from ..factors import Factor, Gather
from .registry import rule


def _row_weights(call: Call, tokens: Tensor, like: Tensor) -> Tensor | None:
    """How much of the gradient torch gives the row of each token, `[batch, T]`; None: all of it.

    None to the row of `padding_idx`; with `scale_grad_by_freq` as much as the token's share among its like in the text.
    """
    arguments = call.arguments
    padding, by_frequency = arguments.get("padding_idx"), arguments.get("scale_grad_by_freq", False)
    if padding is None and not by_frequency:
        return None
    weights = torch.ones(tokens.shape, dtype=like.dtype, device=like.device)
    if by_frequency:
        order, place = tokens.sort(1)
        new = torch.ones_like(order, dtype=torch.bool)
        new[:, 1:] = order[:, 1:] != order[:, :-1]
        group = new.cumsum(1) - 1
        counts = torch.zeros_like(group).scatter_add_(1, group, torch.ones_like(group)).gather(1, group)
        weights.scatter_(1, place, 1 / counts.to(like.dtype))
    if padding is not None:
        row = padding % len(arguments["weight"])
        weights = weights * (tokens != row)
    return weights


def _without_gradient(call: Call) -> Any:
    """The part of the output that torch keeps from the gradient of the table."""
    tokens = call.data("input")
    output = call.examples(call.output, call.axis)
    weights = _row_weights(call, tokens.reshape(len(tokens), -1), output)
    return 0 if weights is None else output * (1 - weights).view(*tokens.shape, 1)


@rule(
    F.embedding,
    arguments="input weight padding_idx max_norm norm_type scale_grad_by_freq sparse",
    offset=_without_gradient,
)
def embedding(call: Call, g: Tensor) -> dict[str, Factor]:
    """`a_t = W[token_t]`: the gradient has `g_t` in the row of each token."""
    tokens = call.data("input")
    rows, values = tokens.reshape(len(tokens), -1), g.reshape(len(g), -1, g.shape[-1])
    weights = _row_weights(call, rows, values)
    return {"weight": Gather(rows, values if weights is None else values * weights[..., None])}


@rule(
    F.embedding_bag,
    arguments="input weight offsets max_norm norm_type scale_grad_by_freq mode sparse per_sample_weights "
    "include_last_offset padding_idx",
)
def embedding_bag(call: Call, g: Tensor) -> dict[str, Factor]:
    """Sums and means of rows: differentiated for each input alone; its arguments have names, so that they are known."""
    raise NotImplementedError
