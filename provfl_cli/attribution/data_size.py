"""The client with the most training examples, whatever the input."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config.parts import RunSettings
from ..imports import later
from .method import AttributionResult, Case, for_every_input, used_clients

if TYPE_CHECKING:
    import numpy as np
else:
    np = later("numpy")


@dataclass(frozen=True)
class DataSize:
    """`n_k`, the client's number of training examples: the weight that federated averaging gives it."""

    name: str = "data_size"

    def check(self, run: RunSettings) -> None:
        """Nothing to check."""

    def attribute(self, case: Case) -> AttributionResult:
        """The same for every input."""
        began = time.perf_counter()
        values = for_every_input(np.asarray(case.stored.examples), case)
        return AttributionResult(values, used_clients(case), time.perf_counter() - began)
