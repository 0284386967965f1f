"""What the traced inputs of a run are without some clients, recomputed while somebody looks at its page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..attribution.counterfactual import logits
from ..errors import InputError
from .inputs import RunInputs
from .open_run import OpenFederation
from .query import left_out
from .tracing import model_outputs

MOST = 100  # clients left out at once
LISTED = 500  # inputs whose prediction changes


class LiveRun:
    """A run opened to answer one question many times; its round and inputs are read once.

    Args:
        opened: a run of classes.

    Raises:
        InputError: it is none, or its rounds are gone.
    """

    def __init__(self, opened: OpenFederation) -> None:
        if not isinstance(opened.inputs, RunInputs) or opened.meaning.target is not None or opened.prompts is not None:
            raise InputError("--serve: is for runs that predict classes (provfl run): leave it out")
        self.opened = opened
        self.stored = opened.round(None)
        self.inputs = opened.inputs.traced(self.stored.number)
        opened.load(self.stored)
        outputs = model_outputs(opened.model, self.inputs.inputs, opened.device, classes=True)
        self.before = outputs.double().softmax(1).cpu().numpy()

    def without(self, words: Sequence[str]) -> dict[str, Any]:
        """The round fused again without these clients, by name or number, and what is predicted then.

        Returns:
            `clients`, `how` (`refuse`: fused again, or `withhold`: the others' shares stay), `inputs`, and of those
            whose label is known `wrong_before`, `wrong_after`, `corrected`, `broken`; `changed`: input, label, before,
            after and its probability, of the first that change. `reason` in place of these where there is no model.

        Raises:
            InputError: there is no such client, or nobody is named, or too many.
        """
        if not words or len(words) > MOST:
            raise InputError(f"--without: name 1 to {MOST} clients")
        numbers, removed = left_out(self.opened, self.stored, words)
        how = "withhold" if self.opened.fusion is None else "refuse"
        told: dict[str, Any] = {"clients": list(numbers), "how": how, "round": self.stored.number}
        if len(removed) == len(self.stored.clients):
            return {**told, "reason": "nobody is left: these are all clients of the round"}
        case = self.opened.case(self.stored, self.inputs, self.before.argmax(1))
        (output,) = logits(case, how, [removed])
        if output is None:
            return {**told, "reason": "the fusion does not work with so few clients"}
        return told | compared(self.inputs.numbers, self.inputs.labels, self.before, output.softmax(1).cpu().numpy())


def compared(numbers: np.ndarray, labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Which predictions change, and of how many the change is for the better.

    Args:
        numbers, labels: int `[n]`; a label below 0 is not known.
        before, after: probabilities `[n, classes]`.
    """
    first, second, known = before.argmax(1), after.argmax(1), labels >= 0
    right, still = known & (first == labels), known & (second == labels)
    changed = np.flatnonzero(first != second)
    return {
        "inputs": len(numbers),
        "wrong_before": int((known & ~right).sum()),
        "wrong_after": int((known & ~still).sum()),
        "corrected": int((~right & still).sum()),
        "broken": int((right & ~still).sum()),
        "changed_inputs": len(changed),
        "changed": [
            {
                "input": int(numbers[at]),
                "label": int(labels[at]),
                "before": int(first[at]),
                "after": int(second[at]),
                "probability": round(float(after[at, second[at]]), 4),
            }
            for at in changed[:LISTED].tolist()
        ],
    }
