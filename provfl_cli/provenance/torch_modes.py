"""How torch computes while a model is traced: without what hides its parameters or has no gradient."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def hooks(module: nn.Module, before: Callable[..., Any], after: Callable[..., Any]) -> Iterator[None]:
    """Call `before` and `after` around a module's forward, also where that raises."""
    handles = (module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def plain_attention() -> Iterator[None]:
    """Keep transformer layers off their fused path, which hides its parameters and has no gradient."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def eager() -> Iterator[None]:
    """Run what `torch.compile` has wrapped as it was written: compiled code calls no functions that can be seen."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes a second
        yield
    else:
        with torch.compiler.set_stance("force_eager"):
            yield


@contextmanager
def differentiable_recurrence(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Compute recurrent layers without cuDNN, where they have no gradient in evaluation mode."""
    if torch.cuda.is_available() and any(isinstance(module, nn.RNNBase) for module in modules):
        with torch.backends.cudnn.flags(enabled=False):
            yield
    else:
        yield


@contextmanager
def apart_from_caller() -> Iterator[None]:
    """Leave `torch.inference_mode`, `torch.no_grad` and `torch.autocast` of whoever calls: a trace needs gradients."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
