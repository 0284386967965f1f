"""Whether a statement of what a model is made of gives that model, but for rounding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..fusion.decomposition import Decomposition
from ..fusion.fuse import Shares, combined
from ..fusion.updates import ReturnedModels, Updates, unclipped


def worst_difference(
    stated: Decomposition,
    returned: ReturnedModels,
    result: Mapping[str, Tensor],
    coarsest: Mapping[str, torch.dtype],
    steps: Mapping[str, Tensor | float] | None = None,
) -> tuple[float, str]:
    """By how many times the rounding error `W_prev + U + sum_k A_k o (W_k - V_k)` misses a model, and where most.

    Args:
        stated: what the model is said to be made of.
        returned: what the clients returned, and what they started from.
        result: the model that the server made.
        coarsest: by name of the parameters to compare, the type in which each was computed with, at least once.
        steps: the server's step by name, as a factor of the combined update; None: 1.

    Returns:
        The worst ratio, up to 1 where they agree (0 where they are the same; NaN where numbers are), and the parameter.
    """
    updates, shares = unclipped(returned), Shares(stated.example_weights, stated.multipliers)
    worst, where = 0.0, ""
    for name, dtype in coarsest.items():
        again = explained(updates, shares, stated, name)
        excess = rounding_errors(updates, name, again, result[name], dtype, 1.0 if steps is None else steps[name])
        if not excess <= worst:
            worst, where = excess, name
    return worst, where


def explained(updates: Updates, shares: Shares, stated: Decomposition, name: str) -> Tensor:
    """`W_prev + U + sum_k A_k o (W_k - V_k)` of one parameter, in float64; `shares` are those of `stated`."""
    moved, stale = combined(updates, shares, name)
    again = updates.returned.previous[name].double() + moved - (0.0 if stale is None else stale)
    for parts in stated.unsent.values():
        if name in parts:
            again = again + parts[name].double()
    return again


def rounding_errors(
    updates: Updates, name: str, again: Tensor, made: Tensor, dtype: torch.dtype, step: Tensor | float
) -> float:
    """By how many times the rounding error of `dtype` a parameter as it is explained differs from the one made.

    Servers compute in the type of the model; an adaptive one scales the rounding of the average with its `step`.
    """
    before, stack = updates.returned.previous[name].double(), updates.returned.clients[name]
    least, most = torch.aminmax(stack, dim=0)  # in one pass, and without a copy of the stack
    largest = torch.maximum(before.abs(), torch.maximum(-least, most).double())
    step = torch.as_tensor(step, dtype=torch.float64).abs()
    allowed = (updates.count + 16) * (1 + step) * largest + 16 * (again - before).abs()
    allowed = torch.finfo(dtype).eps * allowed + torch.finfo(dtype).tiny
    return float(((again - made.double()).abs() / allowed).max()) if again.numel() else 0.0
