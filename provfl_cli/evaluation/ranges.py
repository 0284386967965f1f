"""In which range a metric lies, and of which inputs it is a share: what its interval has to know."""

from __future__ import annotations

import math

WHOLE = (-math.inf, math.inf)
BOUNDED: tuple[tuple[tuple[str, ...], tuple[float, float]], ...] = (  # by the beginning of the name; the first counts
    (("chance_corrected", "fault_corrected", "caused_corrected", "owner_corrected"), (-math.inf, 1.0)),
    (("spearman_", "lds", "owner_share", "other_share"), (-1.0, 1.0)),
    (("seconds", "ms_per_input", "epsilon", "conservation_residual"), (0.0, math.inf)),
    (
        (
            "localization_accuracy", "majority_accuracy", "best_constant", "ndcg", "tie_rate",
            "gap", "newcomer_top", "fault_accuracy", "fault_share", "hit@", "corrected_accuracy", "exclusive_accuracy",
            "free_rider_top", "duplicate_ties", "named_most", "blamed_auroc", "stated_fpr", "stated_fnr", "top1_",
            "removal_flips", "caused_accuracy", "caused_auroc", "global_accuracy", "covered", "attack_success",
            "clean_twin_accuracy", "owner_top1", "owner_hit@", "owners_found", "owner_auroc", "astray_top1",
            "token_top1", "span_top1", "rest_top1", "span_precision", "span_auroc",
        ),
        (0.0, 1.0),
    ),
)  # fmt: skip
INPUTS = {  # of which inputs (or clients) a share is, by the beginning of its name
    "localization_accuracy": "inputs",
    "majority_accuracy": "inputs",
    "tie_rate": "inputs",
    "newcomer_top": "inputs",
    "free_rider_top": "inputs",
    "duplicate_ties": "inputs",
    "named_most": "inputs",
    "top1_retrain": "inputs",
    "removal_flips": "inputs",
    "fault_share": "inputs",
    "fault_accuracy": "fault_inputs",
    "hit@": "fault_inputs",
    "corrected_accuracy": "corrected_inputs",
    "exclusive_accuracy": "exclusive_inputs",
    "caused_accuracy": "caused_inputs",
    "owner_top1": "said_inputs",
    "owner_hit@": "said_inputs",
    "owners_found": "said_inputs",
    "astray_top1": "astray_inputs",
    "stated_fpr": "clients",
}


def counted_things(metric: str) -> bool:
    """Whether a metric says of how many things others are: it has no interval."""
    things = ("inputs", "no_holder", "clients", "clients_kept", "lds_subsets", "tokens")
    return metric in things or metric.endswith(("_inputs", "_tokens"))


def range_of(metric: str) -> tuple[float, float]:
    """The least and the largest value that a metric can have."""
    if counted_things(metric) or metric == "stated_clients":
        return (0.0, math.inf)
    return next((bounds for starts, bounds in BOUNDED if metric.startswith(starts)), WHOLE)


def inputs_of(metric: str) -> str | None:
    """The column with the number of inputs that a metric is a share of; None: it is no share of inputs."""
    return next((column for start, column in INPUTS.items() if metric.startswith(start)), None)


def cut(metric: str, low: float, high: float, difference: bool = False) -> tuple[float, float]:
    """An interval without what lies beyond the range of a metric, or of differences between two of its values."""
    least, most = range_of(metric)
    if difference:
        least, most = least - most, most - least
    return max(low, least), min(high, most)
