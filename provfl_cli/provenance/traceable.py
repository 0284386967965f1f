"""Models that no trace can follow, refused in one line before anything is computed."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from ..errors import InputError

_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized", "torchao.quantization")


def eager_model(model: nn.Module) -> nn.Module:
    """The module behind `torch.compile`, else the model itself.

    Raises:
        InputError: it holds TorchScript, quantized or lazy layers. Also where such a layer is not trained: torch's
            quantized layers hand no gradient on to what is in front of them.
    """
    if not isinstance(model, nn.Module):
        return model  # `checked_source` says so
    model = getattr(model, "_orig_mod", model)
    for name, module in model.named_modules():
        layer = f"layer {name!r}" if name else "the model"
        if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
            raise InputError(f"{layer} is TorchScript: TorchScript modules cannot be traced, give the eager module")
        if type(module).__module__.startswith(_QUANTIZED):
            raise InputError(
                f"{layer} is quantized ({type(module).__name__}): its numbers have no gradient, and it hands none on, "
                "give the model as it was before quantization"
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise InputError(
                f"layer {name.rpartition('.')[0]!r}: {name} has no shape yet, because a lazy layer takes it from "
                "the first input that it sees: run the model once before the federation is trained and traced"
            )
        if tensor.is_inference():
            raise InputError(
                f"layer {name.rpartition('.')[0]!r}: {name} was made under torch.inference_mode, where tensors never "
                "get a gradient: make the model outside of it, or trace copy.deepcopy(model)"
            )
    return model


def check_differentiable(model: nn.Module, shared: Collection[str]) -> None:
    """Raise InputError where torch does not differentiate one of the `shared` parameters; constants may be anything."""
    for name, parameter in model.named_parameters():
        if name not in shared:
            continue
        kind = str(parameter.dtype).removeprefix("torch.")
        if parameter.is_complex():
            raise InputError(
                f"layer {name.rpartition('.')[0]!r}: {name} is {kind}: complex parameters cannot be traced, keep real "
                "and imaginary parts in a real one and use torch.view_as_complex"
            )
        if kind.startswith(("float8", "float4")):
            raise InputError(
                f"layer {name.rpartition('.')[0]!r}: {name} is {kind}: torch does not differentiate it, give the model "
                "in float16 or wider"
            )
