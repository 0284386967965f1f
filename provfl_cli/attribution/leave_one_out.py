"""Leave-one-out: what the prediction loses when one client is taken away, measured (design section 2)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..checks import one_of
from ..config.parts import RunSettings
from ..fusion.conditions import clients_a_round
from ..imports import later
from .counterfactual import outcomes
from .method import AttributionResult, Case, used_clients
from .settings import KINDS, VALUES, check_fewer, explained, method_name

if TYPE_CHECKING:
    import numpy as np
else:
    np = later("numpy")


@dataclass(frozen=True)
class LeaveOneOut:
    """The effect of client k is `v(all) - v(all but k)`: one model and one forward pass of the inputs a client.

    Attributes:
        counterfactual: `refuse` or `withhold`, see `counterfactual.py`.
        value: `v`: `log_probability` of the class explained, or the `target` that the run's provenance explains.
    """

    counterfactual: str = "refuse"
    value: str = "log_probability"

    def __post_init__(self) -> None:
        one_of("attribution.leave_one_out.counterfactual", self.counterfactual, KINDS)
        one_of("attribution.leave_one_out.value", self.value, VALUES)

    @property
    def name(self) -> str:
        """`leave_one_out`, or `leave_one_out_withhold`."""
        return method_name("leave_one_out", self.counterfactual)

    def check(self, run: RunSettings) -> None:
        """Refuse a fusion that needs every client there is."""
        if self.counterfactual == "refuse":
            check_fewer("leave_one_out", run.fusion, run.federation, clients_a_round(run.federation) - 1)

    def attribute(self, case: Case) -> AttributionResult:
        """Effects, all missing (no candidates) where the fusion does not work without one of the round's clients."""
        began = time.perf_counter()
        clients = range(len(case.stored.clients))
        whole, *without = outcomes(case, self.counterfactual, [(), *((client,) for client in clients)], self.value)
        values = whole.values[:, None] - np.stack([outcome.values for outcome in without], axis=1)
        missing = np.isnan(values).any(axis=0)
        note = ""
        if missing.any():
            note = f"{self.name}: the fusion needs every client that returned, nobody can be left out"
        seconds = time.perf_counter() - began
        target = explained(case, self.value)
        return AttributionResult(
            values,
            used_clients(case) & ~missing,
            seconds,
            note=note,
            target=target,
            without=np.stack([outcome.classes for outcome in without], axis=1) if case.tells_classes else None,
        )
