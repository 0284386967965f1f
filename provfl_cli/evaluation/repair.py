"""How good a repaired model is: what the fault still does, how near it is to retraining, what it remembers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..config.faults import Faults
from .planted import auroc

CLOSE = 0.02  # of shares: success of a fault that differs by no more counts as the same


@dataclass(frozen=True)
class Quality:
    """What was measured of one model; NaN: it was not.

    Attributes:
        accuracy: on the server's test set.
        success: of the fault, see `flip_success` and `backdoor.attack_success`.
        untriggered: of a backdoor the same without the trigger.
        membership: see `membership`.
        agreement: share of test inputs of which it predicts what the retrained model predicts.
        distance: of its parameters from the retrained model's, relative (L2).
        changed: of its parameters from those of the model as it was, relative (L2).
    """

    accuracy: float = math.nan
    success: float = math.nan
    untriggered: float = math.nan
    membership: float = math.nan
    agreement: float = math.nan
    distance: float = math.nan
    changed: float = math.nan


def flip_success(labels: np.ndarray, predictions: np.ndarray, faults: Faults) -> float:
    """Of test inputs whose label was flipped somewhere, the share predicted as a label that it was flipped to.

    `labels` and `predictions` are int `[n]`. NaN where nothing was flipped, or no input has such a label.
    """
    sources = {source for source, target in faults.flips if source != target}
    asked = np.isin(labels, sorted(sources))
    return float(faults.responsible(labels[asked], predictions[asked]).mean()) if asked.any() else math.nan


def membership(members: np.ndarray, others: np.ndarray) -> float:
    """How well the loss tells examples that a client trained on from unseen ones: AUROC of the test "the loss is low".

    0.5: not at all (where both are of one distribution; a model that never saw the client says what it is here).

    Args:
        members: float `[n]`, losses of the client's examples.
        others: float `[m]`, of unseen test examples.
    """
    return auroc(-np.concatenate([members, others]), np.arange(len(members) + len(others)) < len(members))


def nearest(measured: Mapping[str, Quality], retrained: Quality | None) -> tuple[str, str]:
    """Which way is best by what was measured, and by which rule, in words; ("", "") where nothing was.

    With the retrained model the way whose accuracy and fault's success differ least from its, then the one that agrees
    with it in most predictions. Without it the least success (within `CLOSE`), then the most accurate.

    Args:
        measured: by way, those to choose from, the cheapest first.
        retrained: the reference.
    """
    known = {way: quality for way, quality in measured.items() if not math.isnan(quality.accuracy)}
    if not known:
        return "", ""
    if retrained is not None:
        gaps = {way: gap(quality, retrained) for way, quality in known.items()}
        # In steps of a thousandth: what a single example decides is decided by all predictions.
        best = min(known, key=lambda way: (round(gaps[way], 3), -known[way].agreement))
        return best, "its accuracy and the fault's success are nearest to those of the retrained model"
    successes = [quality.success for quality in known.values()]
    if any(map(math.isnan, successes)):
        return max(known, key=lambda way: known[way].accuracy), "it is the most accurate"
    least = min(successes)
    near = [way for way in known if known[way].success <= least + CLOSE]
    return max(
        near, key=lambda way: known[way].accuracy
    ), "of those that let the fault succeed least, it is the most accurate"


def gap(quality: Quality, retrained: Quality) -> float:
    """The larger one of the differences in accuracy and, where known, in the fault's success."""
    differences = [abs(quality.accuracy - retrained.accuracy), abs(quality.success - retrained.success)]
    return max(difference for difference in differences if not math.isnan(difference))


def relative(numbers: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """`|a - b| / |b|` over pairs of arrays of one shape; 0 where both are 0."""
    apart = math.sqrt(sum(float(np.square(a - b).sum()) for a, b in numbers))
    whole = math.sqrt(sum(float(np.square(b).sum()) for _, b in numbers))
    return apart / whole if whole else (math.inf if apart else 0.0)
