"""Is the planted client told from the others? Scores of clients, and of sets of clients that a method states."""

from __future__ import annotations

import numpy as np
from scipy.special import bdtrc

from ..config.faults import Faults
from .contributions import Trace
from .ranking import Order, ranks_of

BLAME_METRICS = ("named_most", "blamed_inputs", "blamed_auroc", "stated_clients", "stated_fpr", "stated_fnr")
SIGNIFICANCE = 0.05  # of naming anybody at all where every client is on top equally often


def auroc(scores: np.ndarray, planted: np.ndarray) -> float:
    """How likely a planted client scores higher than another, ties half: 0.5 is chance; NaN without both kinds.

    Args:
        scores: float64 `[K]`, of each client.
        planted: bool `[K]`.
    """
    inside, outside = int(planted.sum()), int((~planted).sum())
    if not inside or not outside:
        return np.nan
    ranks = ranks_of(scores[None], "average")[0]
    return float((ranks[planted].sum() - inside * (inside + 1) / 2) / (inside * outside))


def error_rates(stated: np.ndarray, planted: np.ndarray) -> tuple[float, float]:
    """False positive and false negative rate of a stated set of clients.

    Args:
        stated: bool `[K]`, the clients that a method states.
        planted: bool `[K]`, those that it should.

    Returns:
        The share of the others that are stated, and of the planted that are not; NaN where there are none of them.
    """
    others, missed = stated[~planted], ~stated[planted]
    return (float(others.mean()) if len(others) else np.nan, float(missed.mean()) if len(missed) else np.nan)


def parts(contributions: np.ndarray) -> np.ndarray:
    """Each client's part of what clients contribute, the mean over inputs of `T_k / sum_j |T_j|`: `[n, K]` to `[K]`."""
    whole = np.abs(contributions).sum(axis=1, keepdims=True)
    mean: np.ndarray = (contributions / np.where(whole > 0, whole, 1.0)).mean(axis=0)
    return mean


def votes(ranking: Order) -> np.ndarray:
    """For how many inputs each client is on top, those that tie there sharing it, float64 `[K]`."""
    top = ranking.first == 1
    shared: np.ndarray = (top / top.sum(axis=1, keepdims=True)).sum(axis=0)
    return shared


def stated_by_votes(ranking: Order) -> np.ndarray:
    """The clients that are on top significantly more often than one of `K` at random, bool `[K]`; it may be nobody.

    One-sided binomial test of each client's votes, Bonferroni-corrected for `K` clients. Votes that are no whole number
    (ties) are rounded down.
    """
    inputs, clients = ranking.first.shape
    if inputs == 0 or clients < 2:
        return np.zeros(clients, dtype=bool)
    counted = np.floor(votes(ranking) + 1e-9)
    at_least = np.where(counted > 0, bdtrc(np.maximum(counted - 1, 0), inputs, 1 / clients), 1.0)
    significant: np.ndarray = at_least < SIGNIFICANCE / clients
    return significant


def corrected(accuracy: float, chance: float) -> float:
    """Accuracy on a scale on which 0 is chance and 1 is perfect; NaN where chance is perfect."""
    return (accuracy - chance) / (1 - chance) if chance < 1 else np.nan


def blame_metrics(trace: Trace, ranking: Order, faults: Faults) -> dict[str, float | int]:
    """Whom does the trace blame for mispredictions, whatever they look like? Of a clean federation too.

    Args:
        trace: whose ranking it is.
        ranking: the order of its candidates by contribution.
        faults: what was planted.

    Returns:
        named_most: share of all inputs for which the client is on top that is so most often: 1 where a method names
            one client whatever the input.
        blamed_inputs: mispredictions traced.
        blamed_auroc: how likely a planted client has a larger part of them than another candidate; chance is 0.5, NaN
            where none of the candidates, or all of them, are planted.
        stated_clients: how many clients `stated_by_votes` states; chance is 0, and right where nothing is planted.
        stated_fpr, stated_fnr: share of the other candidates that are stated, and of the planted that are not.
    """
    wrong = trace.labels != trace.predictions
    blamed = int(wrong.sum())
    result: dict[str, float | int] = {
        "named_most": float(votes(ranking).max() / len(trace.inputs)) if len(trace.inputs) else np.nan,
        "blamed_inputs": blamed,
    }
    if blamed:
        planted = np.isin(trace.clients, np.asarray(faults.clients, dtype=np.int64))
        stated = stated_by_votes(Order(ranking.first[wrong], ranking.last[wrong]))
        positives, negatives = error_rates(stated, planted)
        result |= {
            "blamed_auroc": auroc(parts(trace.contributions[wrong]), planted),
            "stated_clients": int(stated.sum()),
            "stated_fpr": positives,
            "stated_fnr": negatives,
        }
    return result
