"""Federated averaging (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks", algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from .federation import Federation
    from .fuse import Shares
    from .updates import Updates


@dataclass(frozen=True)
class FedAvg:
    """`W = sum_k p_k W_k`: `A_k = p_k`, and nothing comes from anywhere but this round's clients."""

    @property
    def decay(self) -> float:
        """The server keeps no momentum."""
        return 0.0

    @property
    def gain(self) -> float:
        """The combined update counts whole."""
        return 1.0

    def check(self, federation: Federation) -> None:
        """Any federation will do."""

    def correct_gradients(self, gradients: list[Tensor], weights: list[Tensor], start: list[Tensor]) -> None:
        """Leave them: a client's objective is its own loss."""

    def shares(self, updates: Updates) -> Shares:
        """By number of examples."""
        from .average import example_shares
        from .fuse import Shares

        return Shares(example_shares(updates.returned.examples))

    def scale(
        self, delta: Tensor, state: Mapping[str, Tensor], number: int
    ) -> tuple[float | Tensor, dict[str, Tensor]]:
        """The server takes the average as it is."""
        return 1.0, {}
