"""The client that moved the model furthest, whatever the input."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..config.parts import RunSettings
from .method import AttributionResult, Case, for_every_input, shared_parameters, used_clients
from .norms import update_norms


@dataclass(frozen=True)
class StaticWeights:
    """`|A_k o (W_k - V_k)|`, the Euclidean norm of the client's update as fusion took it, over all parameters.

    Attributes:
        name: of the method.
        weighted: with the client's share `q_k` in `A_k`; without, how far it went itself (`update_norm`).
    """

    name: str = "static_weights"
    weighted: bool = True

    def check(self, run: RunSettings) -> None:
        """Nothing to check."""

    def attribute(self, case: Case) -> AttributionResult:
        """The same for every input."""
        began = time.perf_counter()
        values = for_every_input(update_norms(case.stored, shared_parameters(case), self.weighted).numpy(), case)
        return AttributionResult(values, used_clients(case), time.perf_counter() - began)
