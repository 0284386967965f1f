"""In which type a trace is computed: float32, whatever a round is stored in, and float64 where contributions cancel."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from .by_autograd import output_of
from .conservation import TOLERANCE
from .stack import Source

CANCELS = "contributions cancel each other, so that float32 is too coarse for them: computed in float64"
LARGEST = 1 << 32  # bytes of a model beyond which there is no copy of it in float64


def computes_in_half(model: nn.Module, source: Source) -> bool:
    """Whether a parameter of the model that the round holds has a type of 8 or 16 bits."""
    shared = source.weights()
    return any(p.is_floating_point() and p.itemsize < 4 and name in shared for name, p in model.named_parameters())


def in_float32(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy of a model, and its inputs, in float32; both as they are where it cannot compute so."""
    try:
        wide, named = in_type(model, inputs, torch.float32)
        device = next(wide.parameters()).device
        with torch.no_grad():
            output_of(wide.eval(), {name: tensor[:1].to(device, copy=True) for name, tensor in named.items()})
    except Exception:  # a model that asks for half precision inside
        return model, inputs
    return wide, named


def cancels(residuals: np.ndarray, model: nn.Module) -> bool:
    """Whether a residual of a trace in float32 is that of numbers that nearly cancel; a larger model is left as it is.

    The trace has been checked: what is left of the residual is rounding, beside contributions that are small.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    if any(p.dtype != torch.float32 or p.device.type == "mps" for p in parameters):
        return False
    size = sum(parameter.nbytes for parameter in parameters)
    return size * 2 <= LARGEST and not bool((residuals <= TOLERANCE[torch.float32]).all())


def in_type(model: nn.Module, inputs: Mapping[str, Tensor], dtype: torch.dtype) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy of a model, and its inputs, in which every number with a fraction has the type `dtype`."""
    wide = copy.deepcopy(model).to(dtype)
    return wide, {name: t.to(dtype) if t.is_floating_point() else t for name, t in inputs.items()}
