"""Localization metrics from contributions and label counts, each beside what chance scores (design section 5)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from ..config.faults import Faults
from .against_truth import TRUTH_METRICS, truth_columns
from .contributions import TRACE, Trace, traces
from .intervals import mean_there
from .planted import BLAME_METRICS, blame_metrics, corrected
from .ranking import Order, hit, ndcg, no_order, order, spearman
from .responses import RESPONSE_METRICS, owners_of, response_metrics
from .truth import Retrained

HIT_AT = (3, 5)
METRICS = (
    "inputs", "no_holder", "clients",
    "localization_accuracy", "chance_accuracy", "chance_corrected", "best_constant",
    "majority_accuracy", "majority_chance", "ndcg", "ndcg_chance", "spearman_counts", "tie_rate", "gap",
    "newcomer_top", "newcomer_chance",
    "spearman_withhold", "spearman_refuse",
    "fault_inputs", "fault_accuracy", "fault_chance", "fault_corrected",
    *(f"hit@{k}{end}" for k in HIT_AT for end in ("", "_chance")), "fault_share",
    "corrected_inputs", "corrected_accuracy", "attack_success", "attack_success_untriggered",
    "exclusive_inputs", "exclusive_accuracy", "exclusive_chance",
    "free_rider_top", "free_rider_chance", "duplicate_ties",
    *BLAME_METRICS,
)  # fmt: skip
EFFECTS = {"spearman_withhold": "leave_one_out_withhold", "spearman_refuse": "leave_one_out"}
"""Where a frame holds the effects that were measured: the method that measured them, by the metric it is for."""


def localization(
    frame: pd.DataFrame,
    label_counts: Mapping[int, np.ndarray],
    min_examples: int,
    faults: Faults,
    newcomers: Mapping[int, Collection[int]] | None = None,
    retrained: Mapping[int, Retrained] | None = None,
    said: bool = False,
) -> pd.DataFrame:
    """Score every trace in a tidy frame: the rows of `localization.csv`.

    Args:
        frame: contributions as `contributions.tidy` makes them, of any number of methods and rounds.
        label_counts: training examples by label of each client, after injection, int `[classes]`.
        min_examples: from so many on a client holds a label.
        faults: what was planted.
        newcomers: by round, the clients whose work is fused there for the first time; None: not known.
        retrained: by round, what retraining the federation without clients changed; None: nothing was retrained.
        said: whether these are responses, whose predictions are topics that were said.

    Returns:
        One row for each method, scope, target and round, with the columns `METRICS`, of responses `RESPONSE_METRICS`,
        and where something was retrained `TRUTH_METRICS`. NaN where there is nothing to measure, such as
        `chance_corrected` when every client holds every label, or `spearman_refuse` where no `leave_one_out` is among
        the methods. `attack_success` is of the model, not of a trace: see `backdoor.scored`.

    Raises:
        ValueError: a contribution is missing, or a candidate has no label counts.
    """
    rows = []
    found_traces = list(traces(frame))
    measured = {(key[0], key[3]): trace for key, trace in found_traces if key[0] in EFFECTS.values()}
    for key, trace in found_traces:
        unknown = sorted({int(c) for c in trace.clients} - set(label_counts))
        if unknown:
            raise ValueError(f"no label counts for clients {unknown}")
        counts = np.stack([label_counts[int(client)] for client in trace.clients])[:, trace.labels].T
        ranking = order(trace.rank)
        held = np.asarray((counts >= min_examples).any(axis=1))
        rows.append(
            dict(zip(TRACE, key, strict=True))
            | {"clients": len(trace.clients), "no_holder": int((~held).sum())}
            | holder_metrics(trace.contributions[held], _rows(ranking, held), counts[held], min_examples)
            | newcomer_metrics(trace, ranking, (newcomers or {}).get(key[3]) if key[1] == "round" else None)
            | faithfulness(trace, ranking, {name: measured.get((method, key[3])) for name, method in EFFECTS.items()})
            | fault_metrics(trace, ranking, faults, _measured_beside(trace, key[3], measured))
            | planted_metrics(trace, ranking, faults)
            | blame_metrics(trace, ranking, faults)
            | truth_columns(trace, (retrained or {}).get(key[3]), faults, label_counts)
            | (responses_of(trace, ranking, label_counts, min_examples) if said else {})
        )
    more = (*(RESPONSE_METRICS if said else ()), *(TRUTH_METRICS if retrained else ()))
    return pd.DataFrame(rows, columns=[*TRACE, *METRICS, *more])


def responses_of(
    trace: Trace, ranking: Order, label_counts: Mapping[int, np.ndarray], min_examples: int
) -> dict[str, float | int]:
    """The metrics of `responses.response_metrics`; owners are the candidates that hold the topic that was said."""
    return response_metrics(trace, ranking, owners_of(trace.predictions, trace.clients, label_counts, min_examples))


def holder_metrics(
    contributions: np.ndarray, ranking: Order, counts: np.ndarray, min_examples: int
) -> dict[str, float | int]:
    """Does the ranking find who holds the label? `H` = candidates with at least `min_examples` examples of it.

    Args:
        contributions: float64 `[n, K]`.
        ranking: the order of the candidates by contribution.
        counts: each candidate's examples of the input's true label, int `[n, K]`; `H` is nowhere empty.
        min_examples: from so many on a client holds a label.

    Returns:
        localization_accuracy: mean of `|M and H| / |M|`, `M` the candidates at rank 1 (paper, section V).
        chance_accuracy: mean of `|H| / K`.
        chance_corrected: `(accuracy - chance) / (1 - chance)`, both over inputs with `|H| < K`.
        best_constant: the most that naming one and the same candidate for every input scores.
        majority_accuracy, majority_chance: the same as the first two with the largest holders in place of `H`.
        ndcg, ndcg_chance: with the counts as gain, see `ranking.ndcg`; its exact mean over all orders.
        spearman_counts: mean rank correlation of contributions and counts, where counts differ; chance 0.
        tie_rate: share of inputs with `|M| > 1`.
        gap: mean of `(best - second) / sum |T|`; NaN with one candidate.
    """
    n, k = counts.shape
    chance = no_order(n, k)
    holders = counts >= min_examples
    largest = holders & (counts == counts.max(axis=1, keepdims=True))
    accuracy, by_chance = hit(ranking, holders), hit(chance, holders)
    contested = ~holders.all(axis=1)
    room = 1.0 - mean_there(by_chance[contested])
    return {
        "inputs": n,
        "localization_accuracy": mean_there(accuracy),
        "chance_accuracy": mean_there(by_chance),
        "chance_corrected": (mean_there(accuracy[contested]) - mean_there(by_chance[contested])) / room,
        "best_constant": float(holders.mean(axis=0).max()) if n else np.nan,
        "majority_accuracy": mean_there(hit(ranking, largest)),
        "majority_chance": mean_there(hit(chance, largest)),
        "ndcg": mean_there(ndcg(ranking, counts)),
        "ndcg_chance": mean_there(ndcg(chance, counts)),
        "spearman_counts": mean_there(spearman(ranking, counts)),
        "tie_rate": mean_there(((ranking.first == 1).sum(axis=1) > 1).astype(float)),
        "gap": mean_there(_gap(contributions)),
    }


def newcomer_metrics(trace: Trace, ranking: Order, newcomers: Collection[int] | None) -> dict[str, float]:
    """Is the top client one that takes part for the first time?

    Args:
        trace: whose ranking it is, of one round.
        ranking: the order of its candidates by contribution.
        newcomers: `N`, the clients that do, candidates or not; None where that is not known, and for traces over all
            rounds, which are of no round in particular: NaN.

    Returns:
        newcomer_top: mean of `|M and N| / |M|`, `M` the candidates at rank 1. Neither a high nor a low one is right.
        newcomer_chance: `|N| / K`, of the `K` candidates.
    """
    if newcomers is None:
        return {"newcomer_top": np.nan, "newcomer_chance": np.nan}
    new = np.isin(trace.clients, np.fromiter(newcomers, dtype=np.int64))
    return {
        "newcomer_top": mean_there(hit(ranking, np.broadcast_to(new, trace.rank.shape))),
        "newcomer_chance": float(new.mean()),
    }


def faithfulness(trace: Trace, ranking: Order, effects: Mapping[str, Trace | None]) -> dict[str, float]:
    """Does the ranking follow what leaving each client out does to the prediction?

    Args:
        trace: whose ranking it is.
        ranking: the order of its candidates by contribution.
        effects: by metric, the effects measured in the same round; None where they were not.

    Returns:
        By metric, the mean over inputs of the rank correlation with the effects; effects that are equal within the
        tolerance of `contributions.ranks` share their rank. Chance 0. NaN where effects are missing, and for traces of
        other inputs or candidates than were measured, such as those over all rounds.
    """
    return {
        name: mean_there(spearman(ranking, -effect.rank)) if effect is not None and _same(trace, effect) else np.nan
        for name, effect in effects.items()
    }


def fault_metrics(trace: Trace, ranking: Order, faults: Faults, effect: Trace | None = None) -> dict[str, float | int]:
    """Does the ranking find the planted clients, on predictions that they are responsible for?

    Args:
        trace: whose ranking it is.
        ranking: the order of its candidates by contribution.
        faults: what was planted; `Faults.responsible` says which predictions are looked at.
        effect: what is predicted of the same inputs without each of the same candidates (`Trace.without`); None where
            that was not measured.

    Returns:
        fault_inputs: predictions looked at; 0 where no faulty client is a candidate: what follows but the share is NaN.
        fault_accuracy, fault_chance: is the top client faulty? Chance is `f / K`, with `f` of `K` candidates faulty.
        fault_corrected: the accuracy on a scale on which 0 is chance and 1 is perfect.
        hit@k, hit@k_chance: is one of the top `k`? Chance is `1 - C(K-f, k) / C(K, k)`.
        fault_share: share of all predictions traced that faulty clients, candidates or not, are responsible for; of
            triggered inputs the success rate of the backdoor. NaN where nothing was planted.
        corrected_inputs, corrected_accuracy: as `fault_inputs` and `fault_accuracy`, of those predictions alone that
            become right (the true label is predicted) when one of the faulty clients is left out. Chance is
            `fault_chance`. NaN where that was not measured.
    """
    caused = faults.responsible(trace.labels, trace.predictions)
    share = float(caused.mean()) if faults.shown and len(caused) else np.nan
    faulty = np.isin(trace.clients, np.asarray(faults.clients, dtype=np.int64))
    if not faulty.any():
        caused[:] = False
    n = int(caused.sum())
    wanted = np.broadcast_to(faulty, (n, len(faulty)))
    here, chance = _rows(ranking, caused), no_order(n, len(faulty))
    result: dict[str, float | int] = {
        "fault_inputs": n,
        "fault_accuracy": mean_there(hit(here, wanted)),
        "fault_chance": mean_there(hit(chance, wanted)),
        "fault_share": share,
    }
    result["fault_corrected"] = corrected(result["fault_accuracy"], result["fault_chance"])
    for k in HIT_AT:
        result[f"hit@{k}"] = mean_there(hit(here, wanted, k))
        result[f"hit@{k}_chance"] = mean_there(hit(chance, wanted, k))
    if effect is not None and effect.without is not None and n:
        mended = ((effect.without == trace.labels[:, None]) & faulty).any(axis=1)[caused]
        result |= {"corrected_inputs": int(mended.sum()), "corrected_accuracy": mean_there(hit(here, wanted)[mended])}
    return result


def planted_metrics(trace: Trace, ranking: Order, faults: Faults) -> dict[str, float | int]:
    """What else is known of planted clients, faulty or not; NaN (inputs: 0) where there is no such candidate.

    Args:
        trace: whose ranking it is.
        ranking: the order of its candidates by contribution.
        faults: what was planted.

    Returns:
        exclusive_inputs, exclusive_accuracy, exclusive_chance: of correct predictions of a label that one client alone
            holds: is it on top? Chance is `1 / K`.
        free_rider_top, free_rider_chance: of all predictions: is a client on top that has trained on nothing? It never
            should be. Chance is `f / K`, with `f` of `K` candidates free riders.
        duplicate_ties: share of predictions for which all candidates with the same data have the same rank.
    """
    right = trace.labels == trace.predictions
    hits, count = [np.empty(0)], len(trace.clients)
    for client, label in faults.exclusive:
        wanted = np.broadcast_to(trace.clients == client, trace.rank.shape)
        if wanted.any():
            hits.append(hit(ranking, wanted)[right & (trace.labels == label)])
    hit_exclusive = np.concatenate(hits)
    result: dict[str, float | int] = {
        "exclusive_inputs": len(hit_exclusive),
        "exclusive_accuracy": mean_there(hit_exclusive),
        "exclusive_chance": 1 / count if len(hit_exclusive) else np.nan,
    }
    idle = np.isin(trace.clients, np.asarray(faults.free_riders, dtype=np.int64))
    if idle.any():
        wanted = np.broadcast_to(idle, trace.rank.shape)
        result |= {"free_rider_top": mean_there(hit(ranking, wanted)), "free_rider_chance": float(idle.mean())}
    same = np.isin(trace.clients, np.asarray(faults.duplicates, dtype=np.int64))
    if same.sum() > 1:
        result["duplicate_ties"] = mean_there((np.ptp(trace.rank[:, same], axis=1) == 0).astype(float))
    return result


def _measured_beside(trace: Trace, number: int, measured: Mapping[tuple[str, int], Trace]) -> Trace | None:
    """What withholding clients, else refusing them, makes of predictions: for the same inputs and candidates."""
    for method in EFFECTS.values():
        effect = measured.get((method, number))
        if effect is not None and effect.without is not None and _same(trace, effect):
            return effect
    return None


def _same(trace: Trace, other: Trace) -> bool:
    """Whether both are of the same inputs and candidates."""
    return np.array_equal(trace.inputs, other.inputs) and np.array_equal(trace.clients, other.clients)


def _rows(whole: Order, keep: np.ndarray) -> Order:
    return Order(whole.first[keep], whole.last[keep])


def _gap(contributions: np.ndarray) -> np.ndarray:
    if contributions.shape[1] < 2:
        return np.full(len(contributions), np.nan)
    second, best = np.partition(contributions, -2, axis=1)[:, -2:].T
    total = np.abs(contributions).sum(axis=1)
    gap: np.ndarray = (best - second) / np.where(total > 0, total, 1.0)
    return gap
