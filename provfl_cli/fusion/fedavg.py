"""Federated averaging (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks", algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass

from .fuse import FusionResult, fuse
from .plain import ByExamples
from .updates import ReturnedModels


@dataclass(frozen=True)
class FedAvg(ByExamples):
    """`W = sum_k p_k W_k`: `A_k = p_k`, and nothing comes from anywhere but this round's clients."""


def averaged(returned: ReturnedModels) -> FusionResult:
    """A round that was fused by federated averaging; RunError as of `fuse`."""
    return fuse(FedAvg(), returned, {})
