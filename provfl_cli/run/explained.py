"""Whether a global model is what a fusion makes of the clients: within rounding, or by how much it is not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..fusion.decomposition import ROUNDING

NOISE = 1e-5  # of a tensor's largest number: what another order of summing may change


@dataclass(frozen=True)
class Explained:
    """How a global model differs from what the fusion makes of the clients.

    Attributes:
        worst: the largest difference beyond rounding, relative to the most that the round moved any number; 0: none.
        where: the name of the tensor that holds it.
        rounding: what was lost where the model was computed in a coarser type than it is stored in: float32, by name.
            What is lost by storing it a trace tells by itself.
    """

    worst: float
    where: str
    rounding: Mapping[str, Tensor]

    @property
    def unsent(self) -> dict[str, Mapping[str, Tensor]]:
        """The row of it; none where nothing was lost so."""
        return {ROUNDING: self.rounding} if self.rounding else {}


def explained(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    fused: Mapping[str, Tensor],
    clients: Mapping[str, Tensor],
    buffers: frozenset[str],
    sent: Mapping[str, torch.dtype],
    updates: bool,
) -> Explained:
    """Compare a global model with the fusion's.

    Args:
        before, after: the global model as it was given, by name.
        fused: what the fusion makes, float32 at least.
        clients: what clients returned, `[clients, *shape]`, read one name at a time.
        buffers: names that are not compared: they are no parameters.
        sent: in which type the clients sent each tensor.
        updates: whether these were differences from the model before.
    """
    worst, where, rounding, moved = 0.0, "", dict[str, Tensor](), 0.0
    for name in before:
        if name in buffers or not before[name].numel():
            continue
        moved = max(moved, float((after[name].double() - before[name].double()).abs().max()))
    for name in before:
        if name in buffers or not before[name].numel():
            continue
        difference = after[name].double() - fused[name].double()
        storing, summing = _allowed(before[name], after[name], clients[name], sent[name], updates)
        apart = difference.abs()
        if bool((apart <= storing).all()):
            continue
        if bool((apart <= storing + summing).all()):
            rounding[name] = difference.float()
            continue
        relative = float(apart.max()) / moved if moved else math.inf
        if relative > worst:
            worst, where = relative, name
    return Explained(worst, where, rounding)


def _allowed(before: Tensor, after: Tensor, stack: Tensor, sent: torch.dtype, updates: bool) -> tuple[Tensor, Tensor]:
    """What rounding may change at most: storing the model in its type, and computing it in the type of what was sent.

    A server that sums in a type rounds once for each client. In types of less than 32 bits each number has a limit of
    its own, as in a trace; in others the tensor's largest number sets it.
    """
    times = len(stack) + 2
    start = before.double()
    size = torch.maximum(after.double().abs(), start.abs())
    wide = torch.as_tensor(max(NOISE, 4 * torch.finfo(after.dtype).eps)) * size.max()
    coarser = torch.finfo(sent).eps > torch.finfo(after.dtype).eps and sent.itemsize < 4
    if after.dtype.itemsize >= 4 and not coarser:
        return wide, torch.zeros(())
    largest = torch.zeros_like(start)
    for client in stack:
        torch.maximum(largest, (client.double() - start).abs(), out=largest)
    storing = wide if after.dtype.itemsize >= 4 else times * _step(after.dtype, size + largest)
    summing = times * _step(sent, largest if updates else size + largest) if coarser else torch.zeros(())
    return storing, summing


def _step(dtype: torch.dtype, size: Tensor) -> Tensor:
    """Half the distance of neighbouring numbers of a type, at numbers of that size."""
    kind = torch.finfo(dtype)
    return size * (kind.eps / 2) + kind.tiny * kind.eps
