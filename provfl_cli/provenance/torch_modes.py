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
def exact_products() -> Iterator[None]:
    """Compute products of float32 in float32, not from 10 bits of each factor as GPUs do (TF32).

    Contributions are small parts of what layers put out, and have to add up to it: TF32, which torch's convolutions
    take where nobody says otherwise, is off by more than they are.
    """
    backends = torch.backends
    convolutions: Any = backends.cudnn
    products: Any = backends.cuda.matmul
    mkldnn: Any = backends.mkldnn
    places: tuple[Any, ...] = (
        backends,
        convolutions,
        products,
        convolutions.conv,
        convolutions.rnn,
        mkldnn,
        mkldnn.matmul,
    )
    before = [place.fp32_precision for place in places]
    try:
        word = torch.get_float32_matmul_precision()
    except RuntimeError:  # the caller has said it in two ways that differ
        word = "high" if before[2] == "tf32" else "highest"
    # Both of torch's ways of saying it: one that contradicts the other is an error where somebody reads it.
    torch.set_float32_matmul_precision("highest")
    convolutions.allow_tf32 = False
    for place in places:
        place.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(word)
        convolutions.allow_tf32 = before[3] == "tf32"
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


@contextmanager
def apart_from_caller() -> Iterator[None]:
    """Leave `torch.inference_mode`, `torch.no_grad` and `torch.autocast` of whoever calls: a trace needs gradients.

    And products as exact as their type.
    """
    with ExitStack() as stack:
        stack.enter_context(exact_products())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
