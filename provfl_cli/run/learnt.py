"""Whether a model has learnt anything: what a trace of a model that guesses explains is a guess."""

from __future__ import annotations

import math

import numpy as np

from ..data.federated import Dialogues, FederatedData
from ..store.rounds import Metrics

SURE = 2.0  # standard errors above chance from which on it is no chance


def near_chance(metrics: Metrics, data: FederatedData) -> str:
    """A warning where a round's accuracy is what naming the most frequent label would score; "" where it is more."""
    labels = np.asarray(data.evaluated.labels)
    if isinstance(data.form, Dialogues) or not len(labels):
        return ""
    guessing = float(np.bincount(labels).max() / len(labels))
    if metrics.accuracy > guessing + SURE * math.sqrt(guessing * (1 - guessing) / len(labels)):
        return ""
    return (
        f"round {metrics.round}: accuracy {metrics.accuracy:.3f}, and always naming the most frequent label scores "
        f"{guessing:.3f}: the model has learnt next to nothing, so its predictions are guesses; more rounds or local "
        "epochs, or another federation.learning_rate"
    )
