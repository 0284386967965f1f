"""Affine terms of normalisations: `a = w o n(z) + b`, with `n` free of parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import RunError
from ..calls import Call
from ..factors import Dense, Factor
from .registry import rule


def _channels(g: Tensor, normalised: Tensor) -> dict[str, Factor]:
    """One weight and bias a channel, channels behind the batch: `[batch, C, …]`."""
    g, normalised = (tensor.reshape(*tensor.shape[:2], -1) for tensor in (g, normalised))
    return {"weight": Dense(torch.linalg.vecdot(g, normalised)), "bias": Dense(g.sum(2))}


def _trailing(g: Tensor, normalised: Tensor, shape: tuple[int, ...]) -> dict[str, Factor]:
    """One weight and bias for each element of the trailing `shape`."""
    g = g.reshape(len(g), -1, *shape)
    return {"weight": Dense((g * normalised.reshape(g.shape)).sum(1)), "bias": Dense(g.sum(1))}


@rule(F.batch_norm, arguments="input running_mean running_var weight bias training momentum eps")
def batch_norm(call: Call, g: Tensor) -> dict[str, Factor]:
    """`nn.BatchNorm` in evaluation mode: normalised by the global model's running statistics."""
    arguments = call.arguments
    if arguments.get("training") or arguments.get("running_mean") is None:
        raise RunError(
            f"layer {call.layer!r} normalises by the statistics of the batch, so that inputs are not independent: "
            "trace a model in evaluation mode whose BatchNorm tracks running statistics"
        )
    z = call.data("input")
    shape = (1, -1) + (1,) * (z.dim() - 2)
    scale = torch.rsqrt(arguments["running_var"] + arguments.get("eps", 1e-5))
    return _channels(g, (z - arguments["running_mean"].view(shape)) * scale.view(shape))


@rule(F.group_norm, arguments="input num_groups weight bias eps")
def group_norm(call: Call, g: Tensor) -> dict[str, Factor]:
    """`nn.GroupNorm`."""
    return _channels(g, F.group_norm(call.data("input"), call.arguments["num_groups"], eps=call.arguments["eps"]))


@rule(
    F.instance_norm,
    arguments="input running_mean running_var weight bias use_input_stats momentum eps",
)
def instance_norm(call: Call, g: Tensor) -> dict[str, Factor]:
    """`nn.InstanceNorm`, by each input's own statistics or the running ones."""
    free = {k: v for k, v in call.arguments.items() if k not in ("input", "weight", "bias")}
    return _channels(g, F.instance_norm(call.data("input"), **free))


@rule(F.layer_norm, arguments="input normalized_shape weight bias eps")
def layer_norm(call: Call, g: Tensor) -> dict[str, Factor]:
    """`nn.LayerNorm`."""
    shape = tuple(call.arguments["normalized_shape"])
    return _trailing(g, F.layer_norm(call.data("input"), shape, eps=call.arguments["eps"]), shape)


@rule(F.rms_norm, arguments="input normalized_shape weight eps")
def rms_norm(call: Call, g: Tensor) -> dict[str, Factor]:
    """`nn.RMSNorm`."""
    shape = tuple(call.arguments["normalized_shape"])
    normalised = F.rms_norm(call.data("input"), shape, eps=call.arguments.get("eps"))
    return {"weight": _trailing(g, normalised, shape)["weight"]}
