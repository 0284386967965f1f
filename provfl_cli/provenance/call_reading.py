"""How the recorder reads a call: the function and its arguments by name, or why it cannot follow it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .marks import tensors_in
from .nested_calls import flat_arguments
from .rules.recurrent import RECURRENT, without_cudnn
from .rules.registry import RULES

WITHOUT_GRADIENT = "it is used where torch.no_grad or an autograd.Function of the model's own switches gradients off"


def arguments_of(func: Any, args: Any, kwargs: Any) -> tuple[Callable[..., Any], dict[str, Any], int]:
    """The function of a call, its arguments by name, and how many of them are given by position."""
    registered = RULES.get(func)
    names = registered.arguments if registered else ()
    if registered is None and any(isinstance(value, (list, tuple)) for value in (*args, *kwargs.values())):
        function, arguments = flat_arguments(without_cudnn(func) if func in RECURRENT else func, args, kwargs)
        return function, arguments, len(arguments)
    arguments = {names[i] if i < len(names) else str(i): a for i, a in enumerate(args)} | dict(kwargs)
    return (without_cudnn(func) if func in RECURRENT else func), arguments, len(args)


def not_followed(tensors: list[Tensor], output: Any) -> str | None:
    """Why a call that takes parameters cannot be recorded; None where it can."""
    if not torch.is_grad_enabled():
        return WITHOUT_GRADIENT
    outputs = tensors_in(output if isinstance(output, (tuple, list)) else (output,))
    if any(tensor.is_complex() for tensor in (*tensors, *outputs)):
        return "it takes part in complex numbers"
    return None
