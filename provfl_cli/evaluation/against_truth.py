"""Traces against what retraining changed: the rows of `retraining.csv`, and their part of `localization.csv`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..config.faults import Faults
from ..config.retrain import FEWEST_SUBSETS
from .bootstrap import DRAWS, mean_correlation, mean_over_inputs
from .contributions import TRACE, Trace, ranks, traces
from .intervals import Interval, mean_there, wilson
from .lds import datamodel_scores, seed_ceiling, subset_scores
from .planted import auroc, corrected, parts
from .rank_correlation import ordered
from .ranking import Order, hit, no_order, order, spearman
from .removal import REMOVED, fall, random_fall, removal_scores
from .truth import Retrained

COLUMNS = (*TRACE, "metric", "mean", "low", "high", "chance", "inputs", "subsets")
LARGEST = "largest_clients"  # the rows of `retraining.csv` that no trace has: what is removed for its size alone,
SEED_CEILING, DATAMODEL = "another_seed", "datamodel"  # and what limits the linear datamodeling score
RETRAINED = "retrained"  # their scope and target
TRUTH_METRICS = (
    "lds", "lds_seed_ceiling", "lds_datamodel", "lds_subsets",
    "spearman_retrain", "top1_retrain", "top1_retrain_chance",
    *(f"removal_{of}_{k}{end}" for k in REMOVED for of in ("margin", "flips") for end in ("", "_random", "_largest")),
    "caused_inputs", "caused_accuracy", "caused_chance", "caused_corrected", "caused_auroc",
)  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """One figure against the truth: its mean over inputs, the bounds of its 95% interval, and what chance scores.

    `inputs` says of how many inputs it is, `subsets` in how many retrainings they were measured.
    """

    metric: str
    mean: float
    low: float
    high: float
    chance: float
    inputs: int
    subsets: int


def truth_frame(
    frame: pd.DataFrame,
    label_counts: Mapping[int, np.ndarray],
    faults: Faults,
    retrained: Mapping[int, Retrained],
    draws: int = DRAWS,
) -> pd.DataFrame:
    """The rows of `retraining.csv`.

    Args:
        frame: contributions as `contributions.tidy` makes them.
        label_counts: training examples by label of each client; their sum is its size.
        faults: what was planted.
        retrained: what retraining changed, by traced round.
        draws: of the bootstrap.

    Returns:
        One row for each trace of these rounds and each figure that was measured, then for each round what limits the
        linear datamodeling score (methods `another_seed`, `datamodel`) and what removing the largest clients does.
    """
    rows = []
    for key, trace in traces(frame):
        if key[3] in retrained:
            found = measures(trace, retrained[key[3]], faults, draws)
            rows += [dict(zip(TRACE, key, strict=True)) | vars(measure) for measure in found]
    for number, truth in retrained.items():
        for method, measure in limits(truth, label_counts, draws):
            rows.append(dict(zip(TRACE, (method, RETRAINED, RETRAINED, number), strict=True)) | vars(measure))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def truth_columns(
    trace: Trace,
    truth: Retrained | None,
    faults: Faults,
    label_counts: Mapping[int, np.ndarray],
) -> dict[str, float | int]:
    """The columns `TRUTH_METRICS` of one trace: the means alone. What was not measured is left out."""
    if truth is None:
        return {}
    columns: dict[str, float | int] = {"caused_inputs": 0} if truth.twin >= 0 else {}
    for measure in measures(trace, truth, faults, draws=0):
        columns[measure.metric] = measure.mean
        if measure.metric == "lds":
            columns["lds_subsets"] = measure.subsets
        elif measure.metric == "top1_retrain":
            columns["top1_retrain_chance"] = measure.chance
        elif measure.metric == "caused_accuracy":
            columns |= {"caused_inputs": measure.inputs, "caused_chance": measure.chance}
        elif measure.metric.startswith("removal_"):
            columns[f"{measure.metric}_random"] = measure.chance
    names = {SEED_CEILING: "lds_seed_ceiling", DATAMODEL: "lds_datamodel"}
    for name, measure in limits(truth, label_counts, draws=0):
        columns[names.get(name, f"{measure.metric}_largest")] = measure.mean
    return columns


def measures(trace: Trace, truth: Retrained, faults: Faults, draws: int = DRAWS) -> list[Measure]:
    """How well a trace tells what retraining changes.

    All clients of the federation are looked at. One that the trace does not rank (it took no part in the round)
    contributes 0, as the trace says, and is never on top.

    Args:
        trace: whose inputs are looked at, as far as the retrained models were asked about them.
        truth: what retraining changed.
        faults: what was planted.
        draws: of the bootstrap; 0: no bounds but those of proportions.

    Returns:
        lds: Spearman over random subsets `S` of the clients between `sum_{k in S} T_k` and the value of the explained
            class in the federation retrained with `S`. Chance 0.
        spearman_retrain: Spearman over clients between the contributions and how much the value falls when the client
            is left out and the federation retrained. Chance 0.
        top1_retrain: is the client on top the one without which it falls most? Chance is 1 / K.
        removal_margin_k, removal_flips_k: how much the margin falls, and how often another class is predicted, in the
            federation retrained without the top `k`, by mean contribution to all inputs of this trace; left out where
            nobody was retrained without just these. Chance: without `k` clients drawn at random.
        caused_accuracy: of predictions that what was planted caused: is the planted client on top? Chance `f / K`.
        caused_corrected: the same on a scale on which 0 is chance and 1 is perfect.
        caused_auroc: how likely a planted client has a larger part of them than another client. Chance 0.5.
    """
    here = np.isin(trace.inputs, truth.inputs)
    truth = truth.of_inputs(trace.inputs[here])
    contributions, ranking = _of_everybody(trace, truth, here)
    found = [
        *_lds(contributions, truth, draws),
        *_leave_one_out(contributions, ranking, truth, draws),
        *_removal(removal_scores(trace, truth.clients), truth, draws),
        *_caused(contributions, ranking, trace.labels[here], trace.predictions[here], truth, faults),
    ]
    return [measure for measure in found if not np.isnan(measure.mean)]


def limits(
    truth: Retrained, label_counts: Mapping[int, np.ndarray], draws: int = DRAWS
) -> Iterator[tuple[str, Measure]]:
    """What no trace has a part in: both ceilings of `lds`, and the removal of the largest clients; by method."""
    scores, values = seed_ceiling(truth)
    if values.shape[1] >= FEWEST_SUBSETS and len(values):
        interval = mean_correlation(ordered(scores), ordered(values), draws)
        yield SEED_CEILING, _measure("lds", interval, 0.0, values.shape[1])
    rows = truth.random_rows
    if len(rows) >= FEWEST_SUBSETS and len(truth.inputs):
        values = truth.values[:, rows]
        interval = mean_correlation(ordered(datamodel_scores(truth.subsets[rows], values)), ordered(values), draws)
        yield DATAMODEL, _measure("lds", interval, 0.0, len(rows))
    sizes = np.array([label_counts[int(client)].sum() for client in truth.clients], dtype=np.float64)
    for measure in _removal(sizes, truth, draws):
        yield LARGEST, measure


def caused(
    labels: np.ndarray, predictions: np.ndarray, truth: Retrained, faults: Faults
) -> tuple[np.ndarray, np.ndarray]:
    """Which predictions were caused by what was planted, and by whom.

    A misprediction that looks like the fault's (`Faults.responsible`; where nothing is known of its looks, any) is
    caused by it where the clean twin is right. A correct prediction of a label that one client alone holds is caused by
    it where the federation retrained without the client (without that, the twin) is wrong.

    Args:
        labels, predictions: int `[n]`, of the federation that was traced.
        truth: of the same inputs.
        faults: what was planted.

    Returns:
        bool `[n]`, and bool `[n, K]`: the clients to name.
    """
    count = len(labels)
    found, wanted = np.zeros(count, dtype=bool), np.zeros((count, len(truth.clients)), dtype=bool)
    faulty = np.isin(truth.clients, np.asarray(faults.clients, dtype=np.int64))
    if truth.twin >= 0 and faulty.any():
        looks = faults.responsible(labels, predictions) if faults.shown else np.ones(count, dtype=bool)
        found = looks & (predictions != labels) & (truth.predictions[:, truth.twin] == labels)
        wanted[found] = faulty
    for client, label in faults.exclusive:
        at = np.flatnonzero(truth.clients == client)
        if not len(at):
            continue
        alone = int(truth.without_each[at[0]])
        other = truth.twin if alone < 0 else alone
        if other >= 0:
            own = (labels == label) & (predictions == labels) & (truth.predictions[:, other] != labels)
            found |= own
            wanted[own, at[0]] = True
    return found, wanted


def _of_everybody(trace: Trace, truth: Retrained, here: np.ndarray) -> tuple[np.ndarray, Order]:
    """Contributions `[n, K]` of all clients of the federation, and their order; those not ranked come last."""
    at = np.searchsorted(truth.clients, trace.clients)
    if (at >= len(truth.clients)).any() or not np.array_equal(truth.clients[at], trace.clients):
        raise ValueError(
            f"clients {trace.clients.tolist()} were traced, {truth.clients.tolist()} are in the federation"
        )
    shape = (int(here.sum()), len(truth.clients))
    contributions, rank = np.zeros(shape), np.full(shape, len(truth.clients) + 1)
    contributions[:, at], rank[:, at] = trace.contributions[here], trace.rank[here]
    return contributions, order(rank)


def _lds(contributions: np.ndarray, truth: Retrained, draws: int) -> Iterator[Measure]:
    rows = truth.random_rows
    if len(rows) >= FEWEST_SUBSETS and len(truth.inputs):
        scores = ordered(subset_scores(contributions, truth.subsets[rows]))
        yield _measure("lds", mean_correlation(scores, ordered(truth.values[:, rows]), draws), 0.0, len(rows))


def _leave_one_out(contributions: np.ndarray, ranking: Order, truth: Retrained, draws: int) -> Iterator[Measure]:
    rows = truth.without_each
    if (rows < 0).any() or len(rows) < 2:
        return
    without = truth.values[:, rows]
    signs = order(ranks(contributions))
    yield _measure("spearman_retrain", mean_over_inputs(spearman(signs, -without), draws), 0.0, len(rows))
    needed = without == without.min(axis=1, keepdims=True)
    chance = mean_there(hit(no_order(*needed.shape), needed))
    yield _proportion("top1_retrain", hit(ranking, needed), chance, len(rows))


def _removal(scores: np.ndarray, truth: Retrained, draws: int) -> Iterator[Measure]:
    for count in REMOVED:
        fallen, at_random = fall(truth, scores, count), random_fall(truth, count)
        if fallen is not None:
            margin, flips = (
                (np.nan, np.nan) if at_random is None else map(mean_there, (at_random.margin, at_random.flips))
            )
            mean = mean_over_inputs(fallen.margin, draws)
            yield _measure(f"removal_margin_{count}", mean, margin, fallen.sets)
            yield _proportion(f"removal_flips_{count}", fallen.flips, flips, fallen.sets)


def _caused(
    contributions: np.ndarray,
    ranking: Order,
    labels: np.ndarray,
    predictions: np.ndarray,
    truth: Retrained,
    faults: Faults,
) -> Iterator[Measure]:
    found, wanted = caused(labels, predictions, truth, faults)
    if not found.any():
        return
    hits = hit(Order(ranking.first[found], ranking.last[found]), wanted[found])
    chance = mean_there(wanted[found].mean(axis=1))
    accuracy = _proportion("caused_accuracy", hits, chance, 1)
    yield accuracy
    low, high = corrected(accuracy.low, chance), corrected(accuracy.high, chance)
    yield Measure("caused_corrected", corrected(accuracy.mean, chance), low, high, 0.0, accuracy.inputs, 1)
    same = wanted[found][0]
    if (wanted[found] == same).all():
        area = auroc(parts(contributions[found]), same)
        yield Measure("caused_auroc", area, np.nan, np.nan, 0.5, accuracy.inputs, 1)


def _measure(metric: str, interval: Interval, chance: float, subsets: int) -> Measure:
    return Measure(metric, interval.mean, interval.low, interval.high, chance, interval.count, subsets)


def _proportion(metric: str, hits: np.ndarray, chance: float, subsets: int) -> Measure:
    return Measure(metric, mean_there(hits), *wilson(mean_there(hits), len(hits)), chance, len(hits), subsets)
