"""A client's optimizer as one function a step.

Torch's functional forms are used, with their fused kernels where there are such: the optimizer classes import torch's
compiler on first use, two seconds in every worker, and spend more time in a step on their bookkeeping than on small
models' arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from ..config import schema

Step = Callable[[Sequence[int], list[Tensor]], None]
"""Given positions of weights and their gradients, changes those weights in place."""


def make_step(weights: list[Tensor], settings: schema.Federation, rate_at: Callable[[int], float]) -> Step:
    """The step of `federation.optimizer` on `weights`, from a state of its own: momentum 0, step 0.

    sgd: `v <- momentum v + g + weight_decay w; w <- w - learning_rate v`. adam: Kingma & Ba 2015, algorithm 1, with
    betas 0.9 and 0.999, epsilon 1e-8, `weight_decay w` added to the gradient. adamw: Loshchilov & Hutter 2019, adam
    without that, and `w <- w - learning_rate weight_decay w` first, for every weight. `learning_rate` of a step is
    `rate_at` its number, from 1.
    """
    fused = all(weight.is_floating_point() and weight.device.type in ("cpu", "cuda", "mps") for weight in weights)
    first = [torch.zeros_like(weight) for weight in weights]  # momentum
    turns = count(1)

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
            lr=rate_at(next(turns)),
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
            decoupled_weight_decay=settings.optimizer == "adamw",
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate_at(next(turns)),
            weight_decay=settings.weight_decay,
            eps=1e-8,
            maximize=False,
        )

    return adam_step


def rate(settings: schema.Federation, number: int, turn: int) -> float:
    """The learning rate of a client's step number `turn` in round `number`, both from 1.

    In a round a line from 0 over the first steps; over the rounds a line to `final_rate` of it in `rate_until`.
    """
    last = settings.rate_until or settings.rounds
    gone = min((number - 1) / (last - 1), 1.0) if last > 1 else 0.0
    here = settings.learning_rate * (1.0 - (1.0 - settings.final_rate) * gone)
    return here * min(1.0, turn / max(settings.warmup_steps, 1))


def total_rate(settings: schema.Federation, number: int, steps: int) -> float:
    """The sum of the learning rates of a client's first `steps` steps in round `number`."""
    return sum(rate(settings, number, turn) for turn in range(1, steps + 1))


def clip(gradients: Sequence[Tensor], most: float) -> None:
    """Scale `gradients`, in place, so that the norm of them all together is at most `most`.

    As `torch.nn.utils.clip_grad_norm_`: by `most / (norm + 1e-6)` where that is below 1.
    """
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)
