"""What chance scores in each metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..evaluation.removal import REMOVED

if TYPE_CHECKING:
    import pandas as pd

CHANCE: Mapping[str, str | float] = {  # metric: column with what chance scores, or that score itself
    "localization_accuracy": "chance_accuracy",
    "majority_accuracy": "majority_chance",
    "fault_accuracy": "fault_chance",
    "corrected_accuracy": "fault_chance",
    "exclusive_accuracy": "exclusive_chance",
    "free_rider_top": "free_rider_chance",
    "newcomer_top": "newcomer_chance",
    "chance_corrected": 0.0,
    "spearman_counts": 0.0,
    "spearman_withhold": 0.0,
    "spearman_refuse": 0.0,
    "spearman_leave_one_out": 0.0,
    "spearman_retrain": 0.0,
    "lds": 0.0,
    "caused_accuracy": "caused_chance",
    "caused_corrected": 0.0,
    "fault_corrected": 0.0,
    "caused_auroc": 0.5,
    "blamed_auroc": 0.5,
    "owner_corrected": 0.0,
    "owner_auroc": 0.5,
    "span_top1": "token_top1_chance",
    "rest_top1": "token_top1_chance",
    "span_auroc": 0.5,
    **{
        f"removal_{what}_{count}": f"removal_{what}_{count}_random" for what in ("margin", "flips") for count in REMOVED
    },
}


def chance_of(metric: str, rows: pd.DataFrame) -> str | float | None:
    """The column of what chance scores, that score, or None for what is no score."""
    chance = CHANCE.get(metric, f"{metric}_chance")
    if isinstance(chance, str):
        return chance if chance in rows else 0.0 if metric.startswith("spearman_") else None
    return chance
