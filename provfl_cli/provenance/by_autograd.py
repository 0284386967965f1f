"""What the recorder cannot follow: parameters whose gradient autograd computes, one input at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .calls import Weight
from .conservation import left_side
from .factors import Dense, contract
from .outputs import logits_of_classes, numbers_of, output_of
from .structure import Structure
from .sums import Setup, Sums
from .targets import target_value
from .torch_modes import differentiable_recurrence, eager, plain_attention

GRADIENT_NUMBERS = 1 << 25  # of gradients that are kept until they are contracted together


def logits_of(structure: Structure, batch: Mapping[str, Tensor]) -> Tensor:
    """What a trace explains of a batch: logits `[inputs, classes]`, or `[inputs, numbers]` where there are no classes.

    Raises:
        RunError: the model gives something else.
    """
    size = len(next(iter(batch.values())))
    output = output_of(structure.model, batch)
    with torch._C.DisableTorchFunction():  # no part of the model, where it is recorded
        return logits_of_classes(output, size) if structure.classes else numbers_of(output, size)


@contextmanager
def differentiated(structure: Structure, parameters: Sequence[Tensor]) -> Iterator[None]:
    """Let autograd differentiate these parameters, by functions that have a gradient in evaluation mode."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        recurrence = differentiable_recurrence(structure.modules.values())
        with plain_attention(), eager(), recurrence, torch.enable_grad():
            yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


def add_alone(setup: Setup, sums: Sums, batch: Mapping[str, Tensor], kind: str, sample: int) -> None:
    """Add the contributions through `setup.alone`, by a forward and a backward pass for each input.

    No neurons are selected here: all count, whatever the threshold.

    Args:
        setup: what all batches share.
        sums: of the batch; `wanted` says what is explained.
        batch: its inputs, as the model has not changed them.
        kind: of target.
        sample: for so many of the first inputs, keep each layer's part.
    """
    structure, stack = setup.structure, setup.stack
    layers = {name: name.rpartition(".")[0] for name in setup.alone}
    sums.seen.update(name for name, layer in layers.items() if layer not in setup.chosen)
    names = [name for name, layer in layers.items() if layer in setup.chosen]
    if not names:
        return
    parameters = [structure.parameters[name] for name in names]
    step = max(1, GRADIENT_NUMBERS // sum(parameter.numel() for parameter in parameters))
    for start in range(0, len(sums.wanted), step):
        stop = min(len(sums.wanted), start + step)
        gradients = [_gradients(setup, batch, parameters, kind, sums.wanted, b) for b in range(start, stop)]
        for position, name in enumerate(names):
            rows = [of_input[position] for of_input in gradients]
            if all(row is None for row in rows):
                continue
            sums.seen.add(name)
            sums.unchecked[layers[name]] = None
            zero = torch.zeros_like(parameters[position])
            factor = Dense(torch.stack([zero if row is None else row for row in rows]).to(stack.dtype))
            part = contract(factor, stack.block(Weight((name,))), stack.rows, stack.numbers).to(stack.wide)
            part = part * setup.betas[layers[name]]
            sums.rows[start:stop] += part
            sums.right[start:stop] += left_side(part, stack)
            _add_sampled(sums, layers[name], part[:, stack.reported], start, sample)


def _gradients(
    setup: Setup, batch: Mapping[str, Tensor], parameters: list[nn.Parameter], kind: str, wanted: Tensor, b: int
) -> tuple[Tensor | None, ...]:
    """Of the target of one input in each of the parameters; None where it does not depend on it."""
    with differentiated(setup.structure, parameters):
        logits = logits_of(setup.structure, {name: tensor[b : b + 1].clone() for name, tensor in batch.items()})
        target = target_value(kind, logits, wanted[b : b + 1]).sum()
        if not target.requires_grad:
            return (None,) * len(parameters)
        gradients = torch.autograd.grad(target, parameters, allow_unused=True)
    return tuple(
        gradient.to_dense() if gradient is not None and gradient.is_sparse else gradient for gradient in gradients
    )


def _add_sampled(sums: Sums, layer: str, part: Tensor, start: int, sample: int) -> None:
    """Keep a layer's part for the inputs of the sample; its neurons are not known."""
    if start >= sample:
        return
    kept = sums.layers.get(layer)
    if kept is None:
        kept = sums.layers[layer] = part.new_zeros(sample, part.shape[1])
    stop = min(sample, start + len(part))
    kept[start:stop] += part[: stop - start]
    if layer not in sums.active:
        sums.active[layer] = sums.neurons[layer] = torch.zeros(sample, dtype=torch.long)
