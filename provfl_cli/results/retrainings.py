"""Rows of `retrainings.csv` and `retrained.parquet`: federations trained again without clients, what they predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..imports import later
from ..retraining.designs import Retraining
from ..retraining.predictions import Asked
from ..retraining.train import Outcome

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = later("pandas")

RETRAININGS, RETRAINED = "retrainings.csv", "retrained.parquet"


def retraining_frames(
    made: Sequence[tuple[Retraining, Outcome]], asked: Sequence[Asked]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables, of the retrainings that there is a model of; they are numbered from 0, in their order."""
    there = [(retraining, outcome) for retraining, outcome in made if outcome.answers]
    first = pd.DataFrame(
        {
            "retraining": np.arange(len(there), dtype=np.int32),
            "design": [retraining.design for retraining, _ in there],
            "seed": np.array([retraining.seed for retraining, _ in there], dtype=np.int64),
            "clients": [" ".join(map(str, retraining.clients)) for retraining, _ in there],
            "accuracy": [outcome.accuracy for _, outcome in there],
            "key": [outcome.key for _, outcome in there],
            "seconds": [round(outcome.seconds, 3) for _, outcome in there],
        }
    )
    if any(retraining.removes for retraining, _ in there):
        first["removes"] = [retraining.removes for retraining, _ in there]
    frames = [
        pd.DataFrame(
            {
                "retraining": np.full(len(question.numbers), number, dtype=np.int32),
                "round": np.full(len(question.numbers), question.round, dtype=np.int32),
                "input": question.numbers.astype(np.int32),
                "value": outcome.answers[question.round].values,
                "prediction": outcome.answers[question.round].classes.astype(np.int32),
            }
        )
        for number, (_, outcome) in enumerate(there)
        for question in asked
    ]
    return first, pd.concat(frames, ignore_index=True)
