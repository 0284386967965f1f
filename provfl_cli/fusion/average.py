"""Shares by number of examples, and the weighted average of stacked tensors with one client's beside the sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..imports import later
from .state_dicts import computable

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")


def example_shares(examples: Sequence[int]) -> Tensor:
    """`p_k = n_k / sum n`, float64 `[clients]`."""
    counts = torch.tensor(list(examples), dtype=torch.float64)
    return counts / counts.sum()


def equal_shares(count: int) -> Tensor:
    """`1 / K` each, float64 `[clients]`."""
    return torch.full((count,), 1.0 / count, dtype=torch.float64)


def weighted_average(stack: Tensor, weights: Tensor) -> Tensor:
    """`sum_k weights[k] * stack[k]`, summed in 64 bits, in the type of `stack` (integers are rounded)."""
    total = torch.zeros(stack.shape[1:], dtype=torch.complex128 if stack.is_complex() else torch.float64)
    for client, weight in zip(stack, weights.tolist(), strict=True):
        total.add_(computable(client), alpha=weight)
    whole = not (stack.is_floating_point() or stack.is_complex())
    return (total.round() if whole else total).to(stack.dtype)
