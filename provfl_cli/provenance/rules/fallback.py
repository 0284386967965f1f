"""Any other function of data and parameters, by differentiating it for each input alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..calls import Call
from ..factors import Dense, Factor


def _run(call: Call, replaced: dict[str, Tensor]) -> Tensor:
    arguments = {**call.arguments, **replaced}
    names = list(arguments)
    output: Tensor = call.function(
        *(arguments[n] for n in names[: call.positional]), **{n: arguments[n] for n in names[call.positional :]}
    )
    return output


def _alone(example: Tensor, axis: int, flattened: bool) -> Tensor:
    """One input as a batch of one; or its rows, where rows of several inputs lay behind each other."""
    return example.movedim(0, axis) if flattened else example.unsqueeze(axis)


def fallback(call: Call, g: Tensor) -> dict[str, Factor]:
    """Per-example gradients of the call's parameters, by `torch.func` (first order where it is not linear in them)."""
    weights = {name: call.arguments[name] for name in call.weights}
    data = {name: call.data(name) for name in call.axes}
    flattened = {name: data[name].dim() > call.arguments[name].dim() for name in data}
    out_flattened = g.dim() > call.output.dim()

    def gradients(examples: dict[str, Tensor], gradient: Tensor) -> dict[str, Tensor]:
        batch_of_one = {n: _alone(e, call.axes[n] or 0, flattened[n]) for n, e in examples.items()}
        pull: Any = torch.func.vjp(lambda w: _run(call, {**batch_of_one, **w}), weights)[1]
        pulled: dict[str, Tensor] = pull(_alone(gradient, call.axis or 0, out_flattened))[0]
        return pulled

    try:
        result = torch.func.vmap(gradients, randomness="same")(data, g)
    except (RuntimeError, NotImplementedError, ValueError):  # vmap knows no rule for some function: one by one
        rows: list[Any] = [gradients({n: e[b] for n, e in data.items()}, g[b]) for b in range(call.batch)]
        result = {name: torch.stack([row[name] for row in rows]) for name in weights}
    return {name: Dense(gradient) for name, gradient in result.items()}


def linear_part(call: Call) -> Tensor:
    """What the output owes to the parameters, to first order: the directional derivative along themselves."""
    weights = {name: call.arguments[name] for name in call.weights}
    derivative: Tensor = torch.func.jvp(lambda w: _run(call, w), (weights,), (weights,))[1]
    return derivative
