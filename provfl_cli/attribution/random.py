"""Clients in a random order: what a method must beat."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config.parts import RunSettings
from ..imports import later
from .method import AttributionResult, Case, used_clients

if TYPE_CHECKING:
    import numpy as np
else:
    np = later("numpy")


@dataclass(frozen=True)
class Random:
    """A number drawn uniformly for each input and client.

    It is the same for the same seed, round and input, whatever else is traced.
    """

    name: str = "random"

    def check(self, run: RunSettings) -> None:
        """Nothing to check."""

    def attribute(self, case: Case) -> AttributionResult:
        """Draw for the inputs of `case`."""
        began = time.perf_counter()
        count = len(case.stored.clients)
        drawn = [
            np.random.default_rng([case.seed, case.stored.number, number]).random(count) for number in case.numbers
        ]
        values = np.stack(drawn) if drawn else np.empty((0, count))
        return AttributionResult(values, used_clients(case), time.perf_counter() - began)
