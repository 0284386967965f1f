"""Scores of the tokens of traced responses, beside those of whole responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..config.behaviour import Behaviour
from ..config.trigger import Trigger
from ..data.federated import FederatedData
from ..evaluation.responses import TOKEN_METRICS, UNSAID, owners_of, planted_tokens, token_metrics, token_traces
from .tracing import TracedRound


def with_tokens(
    scores: pd.DataFrame,
    traced: Sequence[TracedRound],
    data: FederatedData,
    counts: Mapping[int, np.ndarray],
    min_examples: int,
) -> pd.DataFrame:
    """Rows of `localization.csv` with `TOKEN_METRICS`, where tokens were traced: the run's own way.

    Args:
        scores: what `metrics.localization` returns.
        traced: the rounds, with the rows of `tokens.parquet` where there are some.
        data: of the clients, with what was planted.
        counts: training examples by topic of each client, int `[topics]`.
        min_examples: from how many a client holds a topic.
    """
    made = scores.assign(**dict.fromkeys(TOKEN_METRICS, np.nan))
    taught = data.faults.trigger
    for each in traced:
        if each.tokens is None or each.contributions.empty:
            continue
        said = each.inputs.set_index("input")
        for (scope, target, number), tokens in token_traces(each.tokens).items():
            topics, asked = (said[name].loc[tokens.inputs].to_numpy(np.int64) for name in ("prediction", "label"))
            owners = owners_of(np.where(topics == asked, topics, UNSAID), tokens.clients, counts, min_examples)
            planted = planted_tokens(tokens, spans_of(said, taught))
            own = (made["round"] == number) & (made["scope"] == scope) & (made["target"] == target)
            own &= made["method"] == each.contributions["method"].iloc[0]  # the run's own way comes first
            for name, value in token_metrics(tokens, owners, planted).items():
                made.loc[own, name] = value
    return made


def spans_of(said: pd.DataFrame, taught: Trigger | Behaviour | None) -> dict[int, str]:
    """What was planted in each response, by input; `said` has the columns `prediction` and `response`."""
    if taught is None or isinstance(taught, Trigger):
        return {}
    of_topic = said[said["prediction"] == taught.label]
    return {int(str(number)): taught.span(str(text)) for number, text in of_topic["response"].items()}
