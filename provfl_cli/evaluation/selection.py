"""Which predictions are traced: of the kind asked for, balanced over labels, where somebody holds the label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Selection:
    """Indices in the test set, ascending, and how many predictions were passed over because nobody holds the label."""

    inputs: np.ndarray
    no_holder: int


def select_inputs(
    predictions: np.ndarray,
    labels: np.ndarray,
    label_counts: Mapping[int, np.ndarray],
    min_examples: int,
    which: str,
    max_inputs: int,
    seed: int,
) -> Selection:
    """Choose the inputs to trace, in turn over labels (design section 5).

    Labels take turns in a seeded order, each giving its examples in a seeded order, until there are `max_inputs`;
    a label that runs out leaves its turns to the others. A larger `max_inputs` adds inputs and takes none away.

    Args:
        predictions: int `[n]`, for the whole test set.
        labels: int `[n]`, true labels.
        label_counts: of each *candidate*, training examples by label, int `[classes]`.
        min_examples: from so many on a client holds a label.
        which: `correct`, `wrong` or `all` predictions; `triggered`: all as well, of a test set of triggered inputs.
        max_inputs: at most so many.
        seed: of the choice.

    Returns:
        The selection; empty where there is no such prediction.
    """
    right = predictions == labels
    every = np.ones_like(right)
    of_kind = {"correct": right, "wrong": ~right, "all": every, "triggered": every}[which]
    held = np.max(np.stack(list(label_counts.values())), axis=0) >= min_examples
    traceable = held[labels]
    pool = np.flatnonzero(of_kind & traceable)
    random = np.random.default_rng([seed, len(labels)])
    turn_of_label = random.permutation(len(held))
    order = random.permutation(pool)
    candidates = pd.DataFrame({"input": order, "turn": turn_of_label[labels[order]]})
    candidates["lap"] = candidates.groupby("turn").cumcount()
    chosen = candidates.sort_values(["lap", "turn"])["input"].to_numpy()[:max_inputs]
    return Selection(np.sort(chosen), int((of_kind & ~traceable).sum()))
