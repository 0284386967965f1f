"""The client whose update points most along the gradient of the prediction."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..config.parts import RunSettings
from ..imports import later
from .method import AttributionResult, Case, shared_parameters
from .norms import update_norms
from .provenance import for_case, traced

if TYPE_CHECKING:
    import numpy as np
else:
    np = later("numpy")


@dataclass(frozen=True)
class Cosine:
    """The cosine between `M_k o (W_k - V_k)` and `dy_b / dW`, over all parameters that the trace accounts for.

    The inner product is a trace without layer weights and threshold (design section 2.4: beta 1, no mask), with the
    run's own target; the client's share `q_k` cancels. Divided by the norm of the update, and not by that of the
    gradient: it is the same for all clients of an input, so ranks and ties are those of the cosine, and the values are
    the cosine times the length of the gradient. A client that sent nothing new has 0.
    """

    name: str = "cosine"

    def check(self, run: RunSettings) -> None:
        """Nothing to check."""

    def attribute(self, case: Case) -> AttributionResult:
        """One trace for all clients."""
        began = time.perf_counter()
        plain = replace(
            case.provenance, of="updates", client_weighting="none", threshold=None, layer_decay=1.0, layers="all"
        )
        settings = for_case(case, plain)
        contributions = traced(case, settings)
        norms = update_norms(case.stored, shared_parameters(case), weighted=False).numpy()
        values = np.divide(contributions.values, norms, out=np.zeros_like(contributions.values), where=norms > 0)
        return AttributionResult(values, contributions.candidates, time.perf_counter() - began, target=settings.target)
