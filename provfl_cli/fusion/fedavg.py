"""Federated averaging (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks", algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .plain import ByExamples

if TYPE_CHECKING:
    from .fuse import FusionResult
    from .updates import ReturnedModels


@dataclass(frozen=True)
class FedAvg(ByExamples):
    """`W = sum_k p_k W_k`: `A_k = p_k`, and nothing comes from anywhere but this round's clients."""


def averaged(returned: ReturnedModels) -> FusionResult:
    """A round that was fused by federated averaging; RunError as of `fuse`."""
    from .fuse import fuse

    return fuse(FedAvg(), returned, {})
