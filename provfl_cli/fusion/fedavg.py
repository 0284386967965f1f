"""Federated averaging (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks", algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .decomposition import Decomposition, Fused

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FedAvg:
    """`W = sum_k p_k W_k`: `A_k = p_k`, and nothing comes from anywhere but this round's clients."""

    def correct_gradients(self, gradients: list[Tensor], weights: list[Tensor], start: list[Tensor]) -> None:
        """Leave them: a client's objective is its own loss."""

    def fuse(
        self,
        previous: Mapping[str, Tensor],
        clients: Mapping[str, Tensor],
        examples: Sequence[int],
        state: Mapping[str, Tensor],
        buffers: frozenset[str],
    ) -> Fused:
        """Average every tensor by examples; see `Fusion.fuse` for the arguments."""
        from .average import example_shares, weighted_average

        shares = example_shares(list(examples))
        weights = {name: weighted_average(clients[name], shares) for name in previous}
        return Fused(weights, {}, Decomposition(example_weights=shares))
