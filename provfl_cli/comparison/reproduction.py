"""What an experiment shows: its runs joined, methods side by side, chance and published figures beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config.schema import Experiment
from ..evaluation.removal import REMOVED
from ..results.folders import MissingRun, RunFolder
from .headings import HEADINGS
from .join import JoinedRuns, TableQuery, join

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = "published: "  # how methods begin whose figures others reported
LONGER = {
    "localization_accuracy": "localization accuracy (saturates): the top client holds the label",
    "lds": "linear datamodeling score: contributions against retraining with some clients",
    "lds_seed_ceiling": "linear datamodeling score of the same subsets with another training seed",
    "lds_datamodel": "linear datamodeling score of a datamodel fitted to other subsets",
    "spearman_retrain": "rank correlation with retraining without each client",
    "top1_retrain": "the top client is the one that retraining misses most",
    **{
        name: text
        for count in REMOVED
        for name, text in (
            (f"removal_margin_{count}", f"margin lost when retraining without the top {count}"),
            (f"removal_flips_{count}", f"predictions that flip when retraining without the top {count}"),
        )
    },
    "caused_accuracy": "caused by what was planted (clean twin): the planted client is on top",
    "caused_corrected": "caused by what was planted: accuracy, corrected for chance",
    "caused_auroc": "caused by what was planted: area under the curve over clients",
    "fault_corrected": "fault accuracy, corrected for chance",
    "named_most": "inputs with the client on top that is so most often",
    "stated_clients": "clients that are on top of mispredictions significantly often: stated",
    "stated_fpr": "false positive rate: of the other clients, those that are stated",
    "stated_fnr": "false negative rate: of the planted clients, those that are not stated",
    "blamed_auroc": "area under the curve over clients, of their part of mispredictions",
    "majority_accuracy": "majority accuracy: the top client is the largest holder",
    "fault_accuracy": "fault accuracy: the top client is faulty",
    "corrected_accuracy": "fault accuracy, of mispredictions that leaving a faulty client out corrects",
    "exclusive_accuracy": "exclusive label: the top client is its only holder",
    "spearman_counts": "rank correlation with label counts",
    "spearman_withhold": "same-round fusion: rank correlation with withholding each client",
    "spearman_refuse": "same-round fusion: rank correlation with fusing without each client",
    "newcomer_top": "the top client takes part for the first time",
    "duplicate_ties": "clients with the same data are tied",
    "chance_corrected": "localization accuracy, corrected for chance",
    "owner_top1": "whoever was taught what is said is on top",
    "owners_found": "everybody who was taught it stands before all others",
    "owner_auroc": "area under the curve over clients",
    "owner_share": "contributions of those who were taught it, of all by size",
    "other_share": "contributions of the others, of all by size",
    "token_top1": "tokens: whoever was taught the response is on top",
    "span_top1": "tokens of what was planted: whoever was taught it is on top",
    "rest_top1": "other tokens of these responses: whoever was taught it is on top",
    "span_precision": "tokens on which whoever was taught it is on top: those of what was planted",
    "span_auroc": "tokens: area under the curve, of what was planted against the rest",
    "seconds": "seconds for all inputs",
    "ms_per_input": "milliseconds an input",
}


@dataclass(frozen=True)
class PublishedFigure:
    """A figure that others reported: the setting it is for, as far as `by` tells, whose it is, and its value."""

    setting: Mapping[str, str]
    name: str
    value: float


@dataclass(frozen=True)
class Reproduction:
    """An experiment's joined runs and the figures published for the same settings."""

    experiment: Experiment
    joined: JoinedRuns
    published: tuple[PublishedFigure, ...]


def reproduction(runs: Sequence[RunFolder], experiment: Experiment, absent: Sequence[MissingRun] = ()) -> Reproduction:
    """Join the runs of an experiment in the way that it asks for.

    Raises:
        InputError: a setting or a metric that no run has.
    """
    there = set().union(*(set(run.scores["method"]) for run in runs))
    metrics = tuple(dict.fromkeys([*experiment.metrics, "inputs"]))
    methods = tuple(name for name in experiment.methods if name in there)
    asked = TableQuery(tuple(experiment.by), metrics, methods, round=experiment.rounds)
    return Reproduction(experiment, join(runs, asked, absent), tuple(_published(experiment)))


def _published(experiment: Experiment) -> Iterator[PublishedFigure]:
    reported = experiment.published
    if reported is None:
        return
    for row in reported["rows"]:
        cells = dict(zip(reported["columns"], row, strict=True))
        setting = {key: str(cells[key]) for key in reported["columns"] if key in (*experiment.by, "round")}
        for name in reported["columns"]:
            if name not in setting and cells[name] is not None:
                yield PublishedFigure(setting, str(name), float(cells[name]))


def fits(published: PublishedFigure, setting: Mapping[str, str]) -> bool:
    """Whether a published figure is for the setting of a row, as far as both say."""
    return all(same(value, setting[key]) for key, value in published.setting.items() if key in setting)


def same(first: str, other: str) -> bool:
    """Whether two settings are equal; 1 and 1.0 are."""
    try:
        return float(first) == float(other)
    except ValueError:
        return first == other


def name_of(metric: str) -> str:
    """A metric as a heading of its own."""
    return LONGER.get(metric) or HEADINGS.get(metric, metric.replace("_", " "))


# Tables


def in_order(wanted: Sequence[str], there: pd.Series) -> list[str]:
    """Those of the wanted methods that are there, in the wanted order; all there are where none is wanted."""
    methods = list(dict.fromkeys(there))
    return [name for name in wanted if name in methods] or methods


# Files
