"""What a client trains on, by position."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Share:
    """One client's examples: positions in the training set and the labels that it trains on, both int64 `[n]`.

    `triggered` bool `[n]`: which of them carry a backdoor's trigger; None: none.
    """

    client: int
    indices: np.ndarray
    labels: np.ndarray
    triggered: np.ndarray | None = None

    def only(self, kept: np.ndarray) -> Share:
        """The examples that `kept` (a mask or positions) selects."""
        triggered = None if self.triggered is None else self.triggered[kept]
        return replace(self, indices=self.indices[kept], labels=self.labels[kept], triggered=triggered)
