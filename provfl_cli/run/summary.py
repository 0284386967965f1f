"""The final figures of a run: `summary.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..config.environment import masked
from ..config.schema import Config
from ..coverage import listed
from ..evaluation.metrics import METRICS
from ..fusion.accounting import PrivacySpent
from ..fusion.accounting import figures as privacy_figures
from .tracing import TracedRound

FIGURES = tuple(name for name in METRICS if not name.startswith("hit@"))  # those are for the tables


def summary(
    config: Config,
    scores: pd.DataFrame,
    traced: Sequence[TracedRound],
    global_accuracy: float,
    train_seconds: float,
    cached_train_seconds: float,
    spent: PrivacySpent | None = None,
    clients_kept: int | None = None,
) -> dict[str, Any]:
    """Flat figures of the run's own method in the last traced round; null where there was nothing to measure.

    `seconds_METHOD` is what each method took for the inputs of that round.
    """
    last = traced[-1]
    ours = scores[(scores["method"] == config.provenance.name) & (scores["round"] == last.number)]
    own, lineage = (ours[ours["scope"] == scope] for scope in ("round", "lineage"))
    traces = [trace for trace in (last.trace, last.lineage) if trace is not None]
    figures = own.iloc[0].to_dict() if len(own) else {}
    return {
        "method": config.provenance.name,
        "round": last.number,
        **{name: figures.get(name) for name in FIGURES},
        "spearman_leave_one_out": _faithfulness(figures),
        **{
            f"lineage_{name}": lineage.iloc[0][name]
            for name in ("localization_accuracy", "chance_accuracy")
            if len(lineage)
        },
        "global_accuracy": global_accuracy,
        "conservation_residual": max((float(trace.residuals.max()) for trace in traces), default=None),
        "covered": None if last.trace is None else last.trace.covered,
        "uncovered": None if last.trace is None else (listed(last.trace.uncovered) or None),
        "threshold": config.threshold,
        "seed": config.seed,
        "clients_kept": clients_kept,
        "dataset": masked(config.dataset.name, config.environment, "dataset"),
        "model": masked(config.model.name, config.environment, "model"),
        "fusion": type(config.fusion).__name__.lower(),
        **privacy_figures(spent),
        "engine": config.engine.name,
        "train_seconds": round(train_seconds, 3),
        "cached_train_seconds": round(cached_train_seconds, 3),
        "trace_seconds": round(sum(traced_round.seconds for traced_round in traced), 3),
        **{
            f"seconds_{name}": round(took, 3) for (name, scope), took in last.method_seconds.items() if scope == "round"
        },
    }


def _faithfulness(figures: Mapping[Any, Any]) -> float | None:
    """The correlation with the effect of refusing clients (design section 2); where that was not measured, withholding.

    None where neither was, or no input has one.
    """
    measured = (figures.get(name) for name in ("spearman_refuse", "spearman_withhold"))
    return next((float(value) for value in measured if value is not None and not pd.isna(value)), None)
