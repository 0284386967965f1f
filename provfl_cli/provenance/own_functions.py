"""The autograd functions written in Python that a tensor was computed with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def own_functions(tensor: Tensor) -> set[str]:
    """Names of each `torch.autograd.Function` in the graph behind a tensor: no torch function mode sees their calls."""
    names: set[str] = set()
    seen: set[Any] = set()
    todo: list[Any] = [tensor.grad_fn] if tensor.grad_fn is not None else []
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch._C._FunctionBase):
            names.add(f"autograd.Function {type(node).__module__}.{type(node).__qualname__}")
        todo += [following for following, _ in node.next_functions if following is not None]
    return names
