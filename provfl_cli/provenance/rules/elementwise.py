"""Parameters that are added to data, multiplied with it, or repeated for every input of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..calls import Call
from ..factors import Dense, Factor
from .registry import rule


def _summed(call: Call, g: Tensor, shape: torch.Size) -> Tensor:
    """Undo broadcasting: `g`, inputs in front, summed to a parameter of `shape`, `[batch, *shape]`."""
    axis = call.axis or 0
    flattened = g.dim() > call.output.dim()
    full = g.movedim(1, axis + 1) if flattened else g.unsqueeze(axis + 1)  # as the output, inputs in front
    wanted = (1,) * (call.output.dim() - len(shape)) + tuple(shape)
    if any(size not in (1, there) for size, there in zip(wanted, full.shape[1:], strict=True)):
        raise NotImplementedError
    repeated = [i for i, size in enumerate(wanted, 1) if size == 1 and full.shape[i] != 1]
    return (full.sum(repeated, keepdim=True) if repeated else full).reshape(len(g), *shape)


def _data(call: Call) -> Tensor:
    """What the parameter is added to."""
    name = next(k for k in ("input", "other") if k not in call.weights)
    if call.arguments[name].dim() != call.output.dim():
        raise NotImplementedError
    return call.data(name) * (call.arguments.get("alpha", 1) if name == "other" else 1)


@rule(torch.add, torch.Tensor.add, torch.Tensor.add_, arguments="input other", offset=_data)
def add(call: Call, g: Tensor) -> dict[str, Factor]:
    """`a = z + p`."""
    sign = call.arguments.get("alpha", 1)
    parameter = next(iter(call.weights))
    shape = call.arguments[parameter].shape
    return {parameter: Dense(_summed(call, g, shape) * (sign if parameter == "other" else 1))}


@rule(torch.mul, torch.Tensor.mul, torch.Tensor.mul_, arguments="input other")
def mul(call: Call, g: Tensor) -> dict[str, Factor]:
    """`a = z o p`."""
    parameter, data = ("input", "other") if "input" in call.weights else ("other", "input")
    z = call.data(data)
    if z.dim() < g.dim():
        raise NotImplementedError
    return {parameter: Dense(_summed(call, g * z, call.arguments[parameter].shape))}


@rule(torch.Tensor.expand, torch.Tensor.repeat, torch.broadcast_to, arguments="input sizes")
def expand(call: Call, g: Tensor) -> dict[str, Factor]:
    """`a_b = p` for every input of the batch, such as a class token."""
    return {"input": Dense(_summed(call, g, call.arguments["input"].shape))}
