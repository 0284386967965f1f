"""Functions of torch that hide their parameters from the recorder, written again with calls that it can follow."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .recurrent import LAYERS, unpacked


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The function of the same name in torch, written with calls that have a rule of their own.

    Sequences are `[T, batch, E]`; the options that no common architecture uses (`bias_k`, `add_zero_attn`,
    `static_k`) raise NotImplementedError.
    """
    if bias_k is not None or bias_v is not None or add_zero_attn or static_k is not None or static_v is not None:
        raise NotImplementedError
    biases: Any = in_proj_bias.chunk(3) if in_proj_bias is not None else (None, None, None)
    if use_separate_proj_weight:
        weights: Any = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        assert in_proj_weight is not None
        weights = in_proj_weight.chunk(3)
    width = query.shape[-1] // num_heads

    def heads(sequence: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        projected = F.linear(sequence.transpose(0, 1), weight, bias)  # [batch, T, E]
        return projected.reshape(*projected.shape[:2], num_heads, width).transpose(1, 2)

    q, k, v = (heads(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    scores = q @ k.transpose(2, 3) / math.sqrt(width)  # [batch, heads, T, S]
    for mask in (_shaped(attn_mask, scores), _shaped_padding(key_padding_mask)):
        if mask is not None:
            scores = scores.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    attention = scores.softmax(-1)
    mixed = (attention @ v).transpose(1, 2).reshape(query.shape[1], query.shape[0], -1)
    output = F.linear(mixed, out_proj_weight, out_proj_bias).transpose(0, 1)
    if not need_weights:
        return output, None
    return output, attention.mean(1) if average_attn_weights else attention


def _shaped(mask: Tensor | None, scores: Tensor) -> Tensor | None:
    if mask is None or mask.dim() == 2:
        return mask
    return mask.reshape(scores.shape)  # torch gives [batch * heads, T, S]


def _shaped_padding(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[:, None, None, :]


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """`g v / |v|`, the norm over all dimensions but `dim`; torch's own has no forward derivative."""
    others = [d for d in range(v.dim()) if d != dim % v.dim()]
    return v * (g / v.square().sum(others, keepdim=True).sqrt())


# What is run in place of a function while a model is recorded.
REWRITES: dict[Any, Any] = {
    F.multi_head_attention_forward: multi_head_attention,
    torch._weight_norm: weight_norm,
    **{function: unpacked(function) for function in LAYERS},
}
