"""What is watched of the clients of a round: the scores of `suspicion.py` over fixed inputs, and one more with labels.

Of a round alone: its global model before and after, the clients' updates, and inputs of the server. No client's data.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..config.validate import provenance_preset
from ..imports import later
from ..store.rounds import Round
from .client_models import cosines_to_others, update_products
from .method import Case
from .provenance import for_case, traced
from .suspects import Score
from .suspicion import DIRECTION, NORM, measured

if TYPE_CHECKING:
    import numpy as np
else:
    np = later("numpy")

HARM = Score("harm", "high", threshold=10.0, least=0.1)


def probed(case: Case) -> dict[Score, np.ndarray]:
    """The scores of the clients of a round over the inputs of a case, float64 `[clients]`, by score.

    Those of `suspicion.measured`, and where labels are known (`case.labels` not negative) of a model of classes also
    harm: minus the mean contribution of a client's update, whatever its number of examples, to the log-odds of the true
    label (the preset `faithful` without `q_k`). Where it is high, the update pushes inputs away from their labels.
    """
    values = measured(case, case.inputs)
    labelled = bool(len(case.labels)) and bool((case.labels >= 0).all())
    if labelled and case.tells_classes:
        settings = replace(provenance_preset("faithful"), client_weighting="none")
        spread = replace(settings, shards=case.provenance.shards, shard_on=case.provenance.shard_on)
        towards = traced(replace(case, classes=case.labels), for_case(case, spread)).values.mean(axis=0)
        values[HARM] = -towards
    return values


def of_updates(stored: Round) -> dict[Score, np.ndarray]:
    """The two scores for which neither model nor inputs are needed, norm and direction of each client's update."""
    products = update_products(stored, [name for name in stored.as_sent().client_stack() if name not in stored.buffers])
    return {NORM: products.diagonal().sqrt().numpy(), DIRECTION: cosines_to_others(products).numpy()}
