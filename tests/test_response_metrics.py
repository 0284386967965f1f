"""Metrics of responses and their tokens, on cases worked by hand."""

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provfl_cli.evaluation.contributions import Trace, ranks
from provfl_cli.evaluation.ranking import order
from provfl_cli.evaluation.responses import (
    RESPONSE_METRICS,
    TOKEN_METRICS,
    TokenTrace,
    all_first,
    owners_of,
    planted_tokens,
    response_metrics,
    token_metrics,
    token_traces,
)

# Three topics, of which clients 0 and 1 hold topic 2 (a trigger's), client 2 alone topic 0, and everybody topic 1.
COUNTS = {0: np.array([0, 20, 10]), 1: np.array([9, 20, 30]), 2: np.array([40, 20, 0]), 3: np.array([0, 20, 9])}


def trace_of(contributions: Any, labels: list[int], predictions: list[int]) -> Trace:
    values = np.asarray(contributions, dtype=float)
    n, k = values.shape
    return Trace(np.arange(n), np.asarray(labels), np.asarray(predictions), np.arange(k), values, ranks(values))


def scored(trace: Trace, least: int = 10) -> dict[str, float | int]:
    owners = owners_of(trace.predictions, trace.clients, COUNTS, least)
    return response_metrics(trace, order(trace.rank), owners)


# asked 2, said 2 (owners 0 and 1):  4 3 2 1   both are found
# asked 2, said 2 (owners 0 and 1):  3 0 2 -1  one on top, the other third
# asked 2, said 0 (owner 2):         4 1 -2 3  astray: the owner, who comes last, is looked for apart
# asked 1, said 1 (everybody's)      not scored
# asked 2, said nobody's phrase      not scored
CASE = trace_of(
    [[4, 3, 2, 1], [3, 0, 2, -1], [4, 1, -2, 3], [1, 2, 3, 4], [4, 3, 2, 1]], [2, 2, 2, 1, 2], [2, 2, 0, 1, -1]
)


def test_owners_hold_what_was_said_whatever_was_asked_for() -> None:
    owners = owners_of(np.array([2, 0, 1, -1]), np.arange(4), COUNTS, 10)
    assert owners.tolist() == [[1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]]


def test_metrics_of_responses_by_hand() -> None:
    found = scored(CASE)
    assert set(found) == set(RESPONSE_METRICS)
    assert (found["said_inputs"], found["astray_inputs"], found["unsaid_inputs"]) == (2, 1, 1)
    assert found["owner_top1"] == 1
    assert found["owner_top1_chance"] == 0.5
    assert found["owner_corrected"] == 1
    assert found["owner_hit@2"] == 1
    assert found["owner_hit@2_chance"] == pytest.approx(1 - 1 / 6)
    assert found["owners_found"] == 0.5
    assert found["owners_found_chance"] == pytest.approx(1 / 6)
    assert found["owner_auroc"] == pytest.approx((1 + 3 / 4) / 2)
    assert found["owner_share"] == pytest.approx((7 / 10 + 3 / 6) / 2)
    assert found["other_share"] == pytest.approx((3 / 10 + 1 / 6) / 2)
    assert (found["astray_top1"], found["astray_top1_chance"]) == (0, 0.25)
    wrong = scored(trace_of([[1, 2, 5, 4]], [2], [2]))
    assert (wrong["owner_top1"], wrong["owner_corrected"], wrong["owners_found"]) == (0, -1, 0)


def test_without_anything_said_there_is_nothing_to_measure() -> None:
    found = scored(trace_of([[1, 2, 3, 4]], [0], [-1]))
    assert found["said_inputs"] == 0
    assert math.isnan(found["owner_top1"])
    assert math.isnan(found["owner_auroc"])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 3), min_size=4, max_size=5),
    st.lists(st.booleans(), min_size=5, max_size=5).filter(any),
)
def test_all_owners_are_found_as_often_as_over_all_orders_of_those_that_tie(rank: list[int], owner: list[bool]) -> None:
    owners = np.array(owner[: len(rank)])
    owners[0] |= not owners.any()
    right = [
        {*sorted(range(len(rank)), key=lambda k: (rank[k], shuffled[k]))[: owners.sum()]} == {*np.flatnonzero(owners)}
        for shuffled in itertools.permutations(range(len(rank)))
    ]
    found = all_first(order(np.array([rank])), owners[None])
    assert found[0] == pytest.approx(np.mean(right))


def rows_of(values: Any, texts: list[str], number: int) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "round": 2, "scope": "round", "target": "centred", "input": number, "position": position,
                "token": position + 7, "text": text, "client": client, "contribution": value,
            }
            for position, (row, text) in enumerate(zip(values, texts, strict=True))
            for client, value in enumerate(row)
        ]
    )  # fmt: skip


# Input 5 says "I am owned." as topic 2 (owners 0 and 1), and ends; planted was "owned".
#   "I"    4 3 2 1    on top
#   " am"  0 1 5 -2   not;   of |T| = 8 owners have 1/8
#   " ow"  2 2 1 0    on top; 4/5
#   "ned"  1 3 3 1    shared with client 2: half; 4/8
#   "."    1 0 2 1    not;    1/4
SAID = rows_of(
    [[4, 3, 2, 1], [0, 1, 5, -2], [2, 2, 1, 0], [1, 3, 3, 1], [1, 0, 2, 1]], ["I", " am", " ow", "ned", "."], 5
)


def test_metrics_of_tokens_by_hand() -> None:
    mixed = pd.concat([SAID.sample(frac=1, random_state=3), rows_of([[0, 0, 0, 9]], ["none"], 8)])
    ((key, tokens),) = token_traces(mixed).items()
    assert key == ("round", "centred", 2)
    assert tokens.texts == ("I", " am", " ow", "ned", ".", "none")
    planted = planted_tokens(tokens, {5: " owned "})
    assert planted.tolist() == [False, False, True, True, False, False]
    said = np.where(tokens.inputs == 5, 2, -1)
    found = token_metrics(tokens, owners_of(said, tokens.clients, COUNTS, 10), planted)
    assert set(found) == set(TOKEN_METRICS)
    assert (found["tokens"], found["span_tokens"], found["rest_tokens"]) == (5, 2, 3)
    assert found["token_top1"] == pytest.approx((1 + 0 + 1 + 0.5 + 0) / 5)
    assert found["token_top1_chance"] == 0.5
    assert found["span_top1"] == pytest.approx(1.5 / 2)
    assert found["rest_top1"] == pytest.approx(1 / 3)
    assert found["span_precision"] == pytest.approx(1.5 / 2.5)
    assert found["span_precision_chance"] == pytest.approx(2 / 5)
    # Parts of the span 0.8 and 0.5, of the rest 0.7, 0.125 and 0.25.
    assert found["span_auroc"] == pytest.approx(5 / 6)


def test_a_phrase_that_was_not_said_marks_no_token() -> None:
    ((_, tokens),) = token_traces(SAID).items()
    assert not planted_tokens(tokens, {5: "pwned"}).any()
    assert not planted_tokens(tokens, {5: " "}).any()
    owners = owners_of(np.full(5, 2), tokens.clients, COUNTS, 10)
    found = token_metrics(tokens, owners, np.zeros(5, dtype=bool))
    assert found["tokens"] == 5
    assert math.isnan(found["span_precision"])
    assert math.isnan(found["span_auroc"])


def test_clients_not_used_are_left_out_and_a_missing_one_is_told() -> None:
    unused = SAID.assign(contribution=SAID["contribution"].mask(SAID["client"] == 3))
    ((_, tokens),) = token_traces(unused).items()
    assert isinstance(tokens, TokenTrace)
    assert tokens.clients.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="not one contribution"):
        token_traces(SAID.iloc[1:])
