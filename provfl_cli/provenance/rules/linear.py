"""`a = z W^T + b` and its relatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..calls import Call, sum_to
from ..factors import Dense, Factor, Outer
from .registry import rule


def _positions(tensor: Tensor) -> Tensor:
    """`[batch, …, features]` as `[batch, features, T]`."""
    return tensor.reshape(len(tensor), -1, tensor.shape[-1]).transpose(1, 2)


@rule(F.linear, arguments="input weight bias")
def linear(call: Call, g: Tensor) -> dict[str, Factor]:
    """`nn.Linear`, projections: `G[o, i] = sum_t g[o, t] z[i, t]`."""
    left, right = _positions(g), _positions(call.data("input"))
    return {"weight": Outer(left, right[:, None]), "bias": Dense(left.sum(2))}


@rule(torch.addmm, torch.Tensor.addmm, arguments="bias input weight")
def addmm(call: Call, g: Tensor) -> dict[str, Factor]:
    """transformers' `Conv1D`: `a = b + z W`, the weight stored `[inputs, outputs]`; other forms are differentiated."""
    arguments = call.arguments
    scaled = arguments.get("beta", 1) != 1 or arguments.get("alpha", 1) != 1
    if scaled or call.weights.keys() != {"bias", "weight"}:
        raise NotImplementedError
    gradient = _positions(g)
    return {
        "weight": Outer(_positions(call.data("input")), gradient[:, None], transposed=True),
        "bias": Dense(sum_to(gradient.sum(2), call.arguments["bias"].shape)),
    }


@rule(torch.matmul, torch.Tensor.matmul, torch.mm, torch.Tensor.mm, arguments="input other")
def matmul(call: Call, g: Tensor) -> dict[str, Factor]:
    """`a = z W` with a matrix `W` `[inputs, outputs]`."""
    if "input" in call.weights or call.arguments["other"].dim() != 2:
        raise NotImplementedError
    return {"other": Outer(_positions(call.data("input")), _positions(g)[:, None], transposed=True)}
