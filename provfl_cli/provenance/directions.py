"""Random directions of all parameters, along which two ways of computing a gradient are compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..fusion.decomposition import Decomposition
from .stack import Stack
from .state_dicts import RoundInMemory
from .sums import Setup

DIRECTIONS = 2  # to one alone a wrong gradient is orthogonal, within rounding, once in some hundred times
PATTERN = 65_521  # random numbers that a direction repeats; a prime, so that rows differ


class Directions(Mapping[str, Tensor]):
    """Random numbers for each parameter, `[DIRECTIONS, *shape]`, made when they are asked for."""

    def __init__(self, like: Mapping[str, Tensor]) -> None:
        self.like = like
        self.pattern = torch.randn(DIRECTIONS, PATTERN, generator=torch.Generator().manual_seed(7))

    def __getitem__(self, name: str) -> Tensor:
        shape = self.like[name].shape
        numbers = shape.numel()
        return self.pattern.repeat(1, -(-numbers // PATTERN))[:, :numbers].reshape(DIRECTIONS, *shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.like)

    def __len__(self) -> int:
        return len(self.like)


def along(setup: Setup) -> Stack:
    """A stack whose only rows are random directions."""
    weights, dtype = setup.stack.source.weights(), setup.stack.dtype
    directions = Directions(setup.structure.parameters)
    whole = Decomposition(torch.full((DIRECTIONS,), 1 / DIRECTIONS, dtype=torch.float64), {}, {})
    source = RoundInMemory(range(DIRECTIONS), whole, weights, weights, directions)
    stack = Stack.open(source, "weights", list(directions), setup.stack.device, dtype, "none")
    return replace(stack, kinds=(), numbers=setup.stack.numbers)


def scores(logits: Tensor) -> Tensor:
    """A scalar that depends on every logit of every input, each in another way."""
    rows, classes = logits.shape
    over_classes = torch.cos(torch.arange(classes, device=logits.device, dtype=torch.float32)).to(logits.dtype)
    return (logits * over_classes).sum(1) @ weights_of(rows, logits)


def weights_of(rows: int, like: Tensor) -> Tensor:
    """Another factor for each input, of either sign."""
    factors = [1.0, 0.61, -0.37][:rows] + [math.cos(2 * row) for row in range(3, rows)]
    return torch.tensor(factors, device=like.device, dtype=like.dtype)
