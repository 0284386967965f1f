"""Parameters that are added to data, multiplied with it, or repeated for every input of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..calls import Call, rule, sum_to
from ..factors import Dense, Factor


def _data(call: Call) -> Tensor:
    """What the parameter is added to."""
    name = next(k for k in ("input", "other") if k not in call.weights)
    return call.data(name) * (call.arguments.get("alpha", 1) if name == "other" else 1)


@rule(torch.add, torch.Tensor.add, torch.Tensor.add_, arguments="input other", offset=_data)
def add(call: Call, g: Tensor) -> dict[str, Factor]:
    """`a = z + p`."""
    sign = call.arguments.get("alpha", 1)
    parameter = next(iter(call.weights))
    shape = call.arguments[parameter].shape
    return {parameter: Dense(sum_to(g, shape) * (sign if parameter == "other" else 1))}


@rule(torch.mul, torch.Tensor.mul, torch.Tensor.mul_, arguments="input other")
def mul(call: Call, g: Tensor) -> dict[str, Factor]:
    """`a = z o p`."""
    parameter, data = ("input", "other") if "input" in call.weights else ("other", "input")
    z = call.data(data)
    if z.dim() < g.dim():
        raise NotImplementedError
    return {parameter: Dense(sum_to(g * z, call.arguments[parameter].shape))}


@rule(torch.Tensor.expand, torch.Tensor.repeat, torch.broadcast_to, arguments="input sizes")
def expand(call: Call, g: Tensor) -> dict[str, Factor]:
    """`a_b = p` for every input of the batch, such as a class token."""
    return {"input": Dense(sum_to(g, call.arguments["input"].shape))}
