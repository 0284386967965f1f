"""A client's optimizer as one function a step.

Torch's functional forms are used, with their fused kernels where there are such: the optimizer classes import torch's
compiler on first use, two seconds in every worker, and spend more time in a step on their bookkeeping than on small
models' arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from ..config import schema

Step = Callable[[Sequence[int], list[Tensor]], None]
"""Given positions of weights and their gradients, changes those weights in place."""


def make_step(weights: list[Tensor], settings: schema.Federation) -> Step:
    """The step of `federation.optimizer` on `weights`, from a state of its own: momentum 0, step 0.

    sgd: `v <- momentum v + g + weight_decay w; w <- w - learning_rate v`. adam: Kingma & Ba 2015, algorithm 1, with
    betas 0.9 and 0.999, epsilon 1e-8, `weight_decay w` added to the gradient.
    """
    fused = all(weight.is_floating_point() and weight.device.type in ("cpu", "cuda", "mps") for weight in weights)
    first = [torch.zeros_like(weight) for weight in weights]  # momentum

    def at(tensors: list[Tensor], positions: Sequence[int]) -> list[Tensor]:
        return [tensors[position] for position in positions]

    def sgd_step(positions: Sequence[int], gradients: list[Tensor]) -> None:
        sgd(
            at(weights, positions),
            gradients,
            list(at(first, positions)),
            has_sparse_grad=False,
            foreach=False,
            fused=fused,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            lr=settings.learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )

    if settings.optimizer == "sgd":
        return sgd_step
    second = [torch.zeros_like(weight) for weight in weights]
    counts = [torch.zeros((), device=weight.device if fused else "cpu") for weight in weights]

    def adam_step(positions: Sequence[int], gradients: list[Tensor]) -> None:
        adam(
            at(weights, positions),
            gradients,
            at(first, positions),
            at(second, positions),
            [],
            at(counts, positions),
            foreach=False,
            fused=fused,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            eps=1e-8,
            maximize=False,
        )

    return adam_step
