"""The final figures of a run, each in one sentence and beside what chance scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...results.run import RunContents

MEASURED = (  # key of summary.json, heading, key or value of chance, what it says ({min}: examples that make a holder)
    (
        "lds", "Retrained with others (LDS)", 0.0,
        "How well contributions, summed over some clients, tell what these alone would predict, from -1 to 1.",
    ),
    (
        "lineage_lds", "The same over all rounds", 0.0,
        "The same for the contributions of what each client sent in all rounds.",
    ),
    (
        "spearman_retrain", "Retrained without each", 0.0,
        "Rank correlation with what retraining the federation without each client changes, from -1 to 1.",
    ),
    (
        "caused_accuracy", "Cause found", "caused_chance",
        "How often a planted client is on top of a prediction that is right where the same client is clean.",
    ),
    (
        "owner_top1", "Owner of a response found", "owner_top1_chance",
        "How often a client that was taught what the model said is on top, of responses that say what was asked for.",
    ),
    (
        "token_top1", "Owner of a token found", "token_top1_chance",
        "The same, token by token.",
    ),
    (
        "majority_accuracy", "Largest holder found", "majority_chance",
        "How often the top-ranked client is the one that holds most examples of the label.",
    ),
    (
        "lineage_majority_accuracy", "Largest holder found, over all rounds", "lineage_majority_chance",
        "The same for the contributions of what each client sent in all rounds, of all that ever took part.",
    ),
    (
        "fault_accuracy", "Faulty client found", "fault_chance",
        "How often a planted faulty client is on top of a mistake that the fault explains.",
    ),
    (
        "exclusive_accuracy", "Only holder found", "exclusive_chance",
        "How often the top-ranked client is the only one that was given the label.",
    ),
    (
        "ndcg", "Ranking quality (NDCG)", "ndcg_chance",
        "How well the whole ranking follows how many examples of the label clients hold; 1 is perfect.",
    ),
    (
        "spearman_counts", "Agreement with label counts", 0.0,
        "Rank correlation of contributions with clients' examples of the label, from -1 to 1.",
    ),
    (
        "spearman_leave_one_out", "Agreement with same-round fusion", 0.0,
        "Rank correlation with fusing the round again without each client (nearly what a trace is), from -1 to 1.",
    ),
    (
        "localization_accuracy", "Localization accuracy (saturates)", "chance_accuracy",
        "How often the top-ranked client holds at least {min} training examples of the input's label.",
    ),
    ("global_accuracy", "Global accuracy", None, "Share of test examples that the global model predicts right."),
    ("exact_match", "Exact match", None, "Share of test prompts that get the right answer, to the last token."),
    ("perplexity", "Perplexity", None, "Of the test set's responses, a token: 1 is a model that knows each for sure."),
    ("tie_rate", "Ties", None, "Share of inputs with more than one client on top."),
    (
        "conservation_residual", "Unexplained rest", None,
        "The largest part of a prediction that contributions do not add up to; rounding error is far below 0.001.",
    ),
    ("covered", "Parameters accounted for", None, "Share of the model's parameters that the trace covers."),
    ("epsilon", "Epsilon", None, "Bound on what the model gives away about one client; above 100 it bounds nothing."),
)  # fmt: skip
HIDDEN_AT = {"tie_rate": 0.0, "covered": 1.0}  # nothing to tell
PERCENT = ("localization_accuracy", "caused_accuracy", "majority_accuracy", "fault_accuracy", "exclusive_accuracy",
           "owner_top1", "token_top1", "exact_match", "global_accuracy", "lineage_majority_accuracy", "tie_rate",
           "covered")  # fmt: skip
RENAMED = {"global_accuracy": "exact_match"}  # the same number under its own name, where it has one


@dataclass(frozen=True)
class Figure:
    """One figure: `value` and `chance` as text, and as parts of a bar from 0 to 1 where there is one."""

    heading: str
    value: str
    chance: str | None
    sentence: str
    bar: tuple[float, float | None] | None


def figures(opened: RunContents) -> list[Figure]:
    """Those that were measured."""
    measured = opened.run.figures
    least = opened.run.settings.get("evaluation.min_examples", 10)
    shown = []
    for key, heading, by_chance, sentence in MEASURED:
        value = _number(measured.get(key))
        if value is None or HIDDEN_AT.get(key) == value or RENAMED.get(key) in measured:
            continue
        chance = _number(measured.get(by_chance)) if isinstance(by_chance, str) else by_chance
        bar = None
        if (key in PERCENT or chance is not None) and 0 <= value <= 1:
            bar = (value, None if chance is None else min(max(chance, 0.0), 1.0))
        shown.append(
            Figure(
                heading,
                _text(key, value),
                None if chance is None else _text(key, chance),
                sentence.format(min=least),
                bar,
            )
        )
    return shown


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
        return None
    return float(value)


def _text(key: str, value: float) -> str:
    if key in PERCENT:
        return f"{value:.1%}"
    if key == "conservation_residual":
        return f"{value:.1e}"
    return f"{value:.4g}" if key == "epsilon" else f"{value:.3f}"
