"""The per-example gradient of one recorded call, by its rule or by differentiating it for each input alone."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .calls import Call
from .factors import Factor
from .rules.fallback import fallback, linear_part
from .rules.registry import RULES


def per_input(call: Call, g: Tensor) -> tuple[dict[str, Factor], Tensor | None]:
    """Factors of the gradient in each parameter of a call, and what the call's output owes to its parameters.

    Args:
        call: the call.
        g: the gradient of the target in its output, inputs in front; in the type in which factors are computed.

    Returns:
        The factors by argument; and, inputs in front, the part of the output that is linear in the parameters, by which
        conservation is checked: None where torch cannot tell it, or where it was rounded to a narrower type than `g`.
    """
    rounded = call.output.dtype.itemsize < g.dtype.itemsize
    call = _widened(call, g.dtype)
    registered = RULES.get(call.function)
    output: Tensor | None
    try:
        if registered is None:
            raise NotImplementedError
        factors = registered.rule(call, g)
        recorded = call.examples(call.output, call.axis)
        output = recorded if registered.offset is None else recorded - registered.offset(call)
        others = (call.arguments.get(argument) for argument in factors if argument not in call.weights)
        if any(isinstance(other, Tensor) for other in others):  # a fixed weight, say, beside a bias
            output = _linear_output(call)
    except NotImplementedError:
        factors = fallback(call, g)
        # Scaled by frequency, torch's gradient is not the derivative: by it nothing is conserved.
        output = None if call.arguments.get("scale_grad_by_freq") else _linear_output(call)
    return factors, None if rounded else output


def _widened(call: Call, dtype: torch.dtype) -> Call:
    """The same call in one type: of half-precision models, and where autocast mixes types."""
    floats = {k: v for k, v in call.arguments.items() if isinstance(v, Tensor) and v.is_floating_point()}
    if all(value.dtype == dtype for value in floats.values()):
        return call
    return replace(call, arguments=call.arguments | {name: value.to(dtype) for name, value in floats.items()})


def _linear_output(call: Call) -> Tensor | None:
    """What a function without a rule owes to its parameters; None where torch cannot tell."""
    try:
        return call.examples(linear_part(call), call.axis)
    except (RuntimeError, NotImplementedError):
        return None
