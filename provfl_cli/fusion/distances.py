"""Distances between clients' updates over all parameters together, read a block at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..imports import later
from .updates import Updates

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")


def squared_distances(updates: Updates) -> Tensor:
    """`|E_i - E_j|^2` over all parameters, float64 `[clients, clients]`.

    From the differences and not from inner products: those cancel where updates are alike. Whatever the order of the
    clients, a pair's distance is the same to the last bit, so that equal clients stay equal.
    """
    count = updates.count
    pairs = torch.zeros(count * (count - 1) // 2, dtype=torch.float64)
    for name in updates.names:
        for where in updates.blocks(name):
            pairs += torch.pdist(updates.rows(name, where).flatten(1)).square()
    distances = torch.zeros(count, count, dtype=torch.float64)
    distances[*torch.triu_indices(count, count, 1)] = pairs
    return distances + distances.T


def distances_from(updates: Updates, point: Tensor) -> Tensor:
    """`|E_k - sum_j point[j] E_j|` over all parameters, float64 `[clients]`; norms where `point` is 0."""
    squares = torch.zeros(updates.count, dtype=torch.float64)
    for name in updates.names:
        for where in updates.blocks(name):
            rows = updates.rows(name, where).flatten(1)
            squares += (rows - point @ rows).square().sum(1)
    return squares.sqrt()
