"""What a fusion may ask about the federation that it serves, before a run starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Federation(Protocol):
    """The settings of a federation that decide whether a fusion can serve it; those of the runner have more."""

    @property
    def mode(self) -> str:
        """`sync`, or `fedbuff`: the server fuses when a buffer of updates is full, whatever model they started from."""

    @property
    def clients(self) -> int:
        """How many there are."""

    @property
    def clients_per_round(self) -> int | None:
        """How many train in a round; None: all."""

    @property
    def rounds(self) -> int:
        """How many there are."""

    @property
    def sampling(self) -> str:
        """How those are chosen."""

    @property
    def optimizer(self) -> str:
        """Of the clients: `sgd`, `adam` or `adamw`."""

    @property
    def learning_rate(self) -> float:
        """Of the clients' optimizer."""

    @property
    def momentum(self) -> float:
        """Of the clients' SGD."""

    @property
    def dropout(self) -> float:
        """Share of the chosen clients that do not return, 0 to 1."""

    @property
    def stragglers(self) -> float:
        """Share of the clients that are slow, 0 to 1."""

    @property
    def straggler_work(self) -> str:
        """What these return: `late` or `partial` work."""

    @property
    def joins(self) -> Mapping[int, int] | None:
        """First rounds of clients that come later."""

    @property
    def leaves(self) -> Mapping[int, int] | None:
        """Last rounds of clients that leave."""
