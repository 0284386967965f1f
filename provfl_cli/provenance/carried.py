"""Which pixels or tokens carried a client: the gradient of its contribution with respect to the input.

To first order a client's contribution is what its update does to the target, `s_k(x) = d/de y(x; W + e u_k)` at
`e = 0`, with `u_k` what the client moved: section 2 of the design with all neurons and all layers counted alike.
Here it is differentiated once more, in the input: `ds_k/dx`, by differentiating the gradient of the target in the
parameters. Of tokens, which have no derivative, it is that in their embeddings, times the embedding: to first order
what is lost of the contribution where the token's embedding is zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .outputs import logits_of_classes, numbers_of, output_of
from .targets import target_value
from .torch_modes import apart_from_caller, differentiable_recurrence, eager, plain_attention


def carried(
    model: nn.Module, inputs: Tensor, moved: Mapping[str, Tensor], wanted: Tensor, kind: str, classes: bool = True
) -> Tensor:
    """How a client's first-order contribution changes with each number of the inputs, or with each token.

    Args:
        model: with the global weights, on the device of the others; it is left in evaluation mode, without gradients.
        inputs: `[n, …]` of floats, or int64 `[n, T]` tokens, of which some module embeds each.
        moved: what the client moved, by parameter of the model; parameters that are not named count as unmoved.
        wanted: int64 `[n]`, the class that is explained, as of `target_value`.
        kind: of the target.
        classes: whether the model puts out logits of classes.

    Returns:
        In the type of the model: of floats `[n, …]`, `ds/dx`; of tokens `[n, T]`, `<ds/de, e>` with their embedding e.

    Raises:
        RuntimeError: something in the model cannot be differentiated twice, or nothing embeds the tokens.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if name in moved}
    tokens = not inputs.is_floating_point()
    if not parameters:
        return torch.zeros(inputs.shape, device=inputs.device)
    model.eval()
    with _differentiated(model, list(parameters.values())):
        given = inputs if tokens else inputs.detach().clone().requires_grad_(True)
        with _embedded(model, inputs if tokens else None) as embedded:
            output = output_of(model, {"": given})
        values = logits_of_classes(output, len(inputs)) if classes else numbers_of(output, len(inputs))
        target = target_value(kind, values, wanted).sum()  # inputs do not touch each other in evaluation mode
        gradients = torch.autograd.grad(target, list(parameters.values()), create_graph=True, allow_unused=True)
        pairs = zip(parameters, gradients, strict=True)
        contribution = sum((gradient * moved[name]).sum() for name, gradient in pairs if gradient is not None)
        if not tokens:
            return _gradient(contribution, given)
        if not embedded:
            raise RuntimeError("no module embeds the tokens")
        told = torch.zeros(inputs.shape, dtype=embedded[0][1].dtype, device=inputs.device)
        for added, embedding in embedded:
            told[:, : added.shape[1]] += (_gradient(contribution, added) * embedding).sum(-1)
        return told


def _gradient(contribution: Any, of: Tensor) -> Tensor:
    """Of the contribution, which may not depend on it at all."""
    if not isinstance(contribution, Tensor) or not contribution.requires_grad:
        return torch.zeros_like(of)
    (gradient,) = torch.autograd.grad(contribution, of, retain_graph=True, allow_unused=True)
    return torch.zeros_like(of) if gradient is None else gradient.detach()


@contextmanager
def _differentiated(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gradients of these parameters alone, of functions that have second ones; all others as before afterwards."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in before:
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    kernels = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)  # the others have no second gradient
    recurrence = differentiable_recurrence(model.modules())
    try:
        with apart_from_caller(), plain_attention(), eager(), recurrence, kernels:
            yield
    finally:
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)


@contextmanager
def _embedded(model: nn.Module, tokens: Tensor | None) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Zeros that are added to each embedding of these tokens, with its values; of other numbers, none."""
    found: list[tuple[Tensor, Tensor]] = []

    def added(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if tokens is None or not given or not isinstance(given[0], Tensor) or given[0].dim() != tokens.dim():
            return None
        if not torch.equal(given[0], tokens[:, : given[0].shape[1]]):  # padding at the end of all may be cut
            return None
        zeros = torch.zeros_like(output, requires_grad=True)
        found.append((zeros, output.detach()))
        return output + zeros

    handles = [each.register_forward_hook(added) for each in model.modules() if isinstance(each, nn.Embedding)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
