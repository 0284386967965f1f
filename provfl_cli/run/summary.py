"""The final figures of a run: `summary.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from ..coverage import listed
from ..evaluation.against_truth import TRUTH_METRICS
from ..evaluation.metrics import METRICS
from ..evaluation.responses import RESPONSE_METRICS, TOKEN_METRICS
from ..store.rounds import Metrics
from .tracing import TracedRound

FIGURES = tuple(name for name in METRICS if not name.startswith("hit@"))  # those are for the tables
LINEAGE_TOO = (  # the first two where the federation was retrained
    "lds", "spearman_retrain", "majority_accuracy", "majority_chance", "localization_accuracy", "chance_accuracy",
)  # fmt: skip


def measured(
    method: str, scores: pd.DataFrame, traced: Sequence[TracedRound], ended: Metrics, generates: bool = False
) -> dict[str, Any]:
    """Flat figures of the run's own method in the last traced round; null where there was nothing to measure.

    `ended` are the metrics of the last round. A model that `generates` has a share of test responses that it says to
    the last token, which is its accuracy, and a perplexity.
    """
    last = traced[-1]
    ours = scores[(scores["method"] == method) & (scores["round"] == last.number)]
    own, lineage = (ours[ours["scope"] == scope] for scope in ("round", "lineage"))
    traces = [trace for trace in (last.trace, last.lineage) if trace is not None]
    figures = own.iloc[0].to_dict() if len(own) else {}
    return {
        "method": method,
        "round": last.number,
        **{name: figures.get(name) for name in FIGURES},
        **{name: figures[name] for name in TRUTH_METRICS if name in figures and not pd.isna(figures[name])},
        **{name: figures.get(name) for name in (*RESPONSE_METRICS, *TOKEN_METRICS) if generates},
        "spearman_leave_one_out": _faithfulness(figures),
        **{f"lineage_{name}": lineage.iloc[0][name] for name in LINEAGE_TOO if len(lineage) and name in lineage},
        "global_accuracy": ended.accuracy,
        **({"exact_match": ended.accuracy, "perplexity": perplexity(ended.loss)} if generates else {}),
        "conservation_residual": max((float(trace.residuals.max()) for trace in traces), default=None),
        "covered": None if last.trace is None else last.trace.covered,
        "uncovered": None if last.trace is None else (listed(last.trace.uncovered) or None),
        "not_shared": None if last.trace is None else (listed(last.trace.not_shared) or None),
        **({} if last.suspicion is None else {"suspects": last.suspicion.said}),
    }


def round_rows(history: Sequence[Metrics], generates: bool) -> list[dict[str, Any]]:
    """The rounds as `metrics.jsonl` and the console have them; of a model that `generates` with a perplexity."""
    rows = [asdict(metrics) for metrics in history]
    return [{**row, "perplexity": perplexity(row["loss"])} for row in rows] if generates else rows


def perplexity(loss: float) -> float:
    """Of a mean cross entropy in nats; infinite where it is too large for a number."""
    return math.exp(loss) if loss < 700 else math.inf


def costs(traced: Sequence[TracedRound], train_seconds: float, cached_train_seconds: float) -> dict[str, Any]:
    """Seconds of training, in this run and of what was in the cache, and of tracing.

    `seconds_METHOD` is what each method took for the inputs of the last traced round.
    """
    by_method = traced[-1].method_seconds
    return {
        "train_seconds": round(train_seconds, 3),
        "cached_train_seconds": round(cached_train_seconds, 3),
        "trace_seconds": round(sum(traced_round.seconds for traced_round in traced), 3),
        **{f"seconds_{name}": round(took, 3) for (name, scope), took in by_method.items() if scope == "round"},
    }


def _faithfulness(figures: Mapping[Any, Any]) -> float | None:
    """Same-round fusion: the correlation with the effect of refusing clients (design section 2), else of withholding.

    None where neither was, or no input has one.
    """
    measured = (figures.get(name) for name in ("spearman_refuse", "spearman_withhold"))
    return next((float(value) for value in measured if value is not None and not pd.isna(value)), None)
