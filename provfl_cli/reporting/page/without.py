"""What the predictions would be without each client, as a run has measured it: of every method that predicts again."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...results.run import RunContents

MOST = 2_000_000  # numbers: inputs x clients


def what_ifs(opened: RunContents) -> dict[str, Any] | None:
    """Of the last round traced, of the first method that has them; None where nothing was left out.

    Returns:
        `method`, `inputs`, `label`, `prediction`, `clients`, and `without` `[clients][inputs]`: the class predicted
        without the client.
    """
    for (method, _, _, number), trace in opened.traces:
        if number != opened.last_round or trace.without is None or trace.without.size > MOST:
            continue
        return {
            "method": method,
            "inputs": trace.inputs.tolist(),
            "label": trace.labels.tolist(),
            "prediction": trace.predictions.tolist(),
            "clients": trace.clients.tolist(),
            "without": np.asarray(trace.without).T.tolist(),
        }
    return None
