"""The client with the most training examples of what is predicted, or said: an oracle, since no server knows it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config.parts import RunSettings
from ..imports import later
from .method import AttributionResult, Case, used_clients

if TYPE_CHECKING:
    import numpy as np

    from ..provenance import responses
else:
    np = later("numpy")
    responses = later("provfl_cli.provenance.responses")


@dataclass(frozen=True)
class LabelCounts:
    """How many training examples a client has of the class that is explained, as it trained on them.

    It needs the clients' data, which a server in a federation does not have: something to compare with, not a rival
    that anybody could use. Where only a federation's rounds are known it ranks nobody.
    """

    name: str = "label_counts"

    def check(self, run: RunSettings) -> None:
        """Nothing to check."""

    def attribute(self, case: Case) -> AttributionResult:
        """Counts of each input's class."""
        began = time.perf_counter()
        values = np.zeros((len(case.classes), len(case.stored.clients)))
        told = case.tells_classes or isinstance(case.model, responses.ResponseScore)  # of responses: topics said
        known = told and all(client in case.label_counts for client in case.stored.clients)
        if known:
            counts = np.stack([case.label_counts[client] for client in case.stored.clients])
            values = np.where(case.classes >= 0, counts[:, case.classes], 0).T.astype(np.float64)
        note = "" if known else f"{self.name}: how many examples of a label clients have is not known here"
        return AttributionResult(values, used_clients(case) & known, time.perf_counter() - began, note=note)
