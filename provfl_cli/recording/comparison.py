"""Whether a statement of what a model is made of gives that model, but for rounding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..fusion.decomposition import Decomposition
from ..fusion.fuse import Shares, combined
from ..fusion.updates import ReturnedModels, unclipped


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
        before, stack = returned.previous[name].double(), returned.clients[name]
        moved, stale = combined(updates, shares, name)
        again = before + moved - (0.0 if stale is None else stale)
        for parts in stated.unsent.values():
            if name in parts:
                again = again + parts[name].double()
        # Servers compute in the type of the model; an adaptive one scales the rounding of the average with its step.
        largest = torch.maximum(before.abs(), stack.abs().amax(0).double())
        step = torch.as_tensor(1.0 if steps is None else steps[name], dtype=torch.float64).abs()
        allowed = (updates.count + 16) * (1 + step) * largest + 16 * (again - before).abs()
        allowed = torch.finfo(dtype).eps * allowed + torch.finfo(dtype).tiny
        excess = float(((again - result[name].double()).abs() / allowed).max()) if again.numel() else 0.0
        if not excess <= worst:
            worst, where = excess, name
    return worst, where
