"""What most fusions share: a server that takes the combined update as it is, and asks nothing else of its clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from .average import example_shares
from .client_state import ClientState
from .federation import Federation
from .fuse import Shares
from .updates import Updates

if TYPE_CHECKING:
    from torch import Tensor


class PlainServer:
    """Defaults of all that `Fusion` asks for but `shares`; a fusion overrides what is different with it."""

    @property
    def decay(self) -> float:
        """The server keeps no momentum."""
        return 0.0

    @property
    def gain(self) -> float:
        """The combined update counts whole."""
        return 1.0

    @property
    def needs_steps(self) -> bool:
        """How many steps clients made does not matter."""
        return False

    @property
    def averages(self) -> bool:
        """Not unless it is said."""
        return False

    @property
    def sums_products(self) -> bool:
        """The factors of adapters are combined apart, as any weights."""
        return False

    @property
    def client_state(self) -> ClientState | None:
        """Clients keep nothing."""
        return None

    def check(self, federation: Federation) -> None:
        """Any federation will do."""

    def fixed(self, clients: int) -> Self:
        """Nothing depends on how many clients there are but what fusing itself makes of them."""
        return self

    def correct_gradients(self, gradients: list[Tensor], weights: list[Tensor], start: list[Tensor]) -> None:
        """Leave them: a client's objective is its own loss."""

    def scale(
        self, delta: Tensor, state: Mapping[str, Tensor], number: int
    ) -> tuple[float | Tensor, dict[str, Tensor]]:
        """The server takes the combined update as it is."""
        return 1.0, {}


class ByExamples(PlainServer):
    """A fusion whose combined update is the average by number of examples: `q_k = n_k / sum n`."""

    @property
    def averages(self) -> bool:
        """It is one."""
        return True

    def shares(self, updates: Updates) -> Shares:
        """By number of examples."""
        return Shares(example_shares(updates.returned.examples))
