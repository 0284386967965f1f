"""Look-ups: a layer whose input is one-hot."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..calls import Call
from ..factors import Factor, Gather
from .registry import rule


@rule(F.embedding, arguments="input weight padding_idx max_norm norm_type scale_grad_by_freq sparse")
def embedding(call: Call, g: Tensor) -> dict[str, Factor]:
    """`a_t = W[token_t]`: the gradient has `g_t` in the row of each token."""
    tokens = call.data("input")
    return {"weight": Gather(tokens.reshape(len(tokens), -1), g.reshape(len(g), -1, g.shape[-1]))}
