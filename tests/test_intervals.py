"""Intervals over seeds: by hand, within the range of the metric, and as often right as they say."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from provfl_cli.evaluation.against_truth import TRUTH_METRICS
from provfl_cli.evaluation.intervals import mean_interval, over_seeds, wilson
from provfl_cli.evaluation.metrics import METRICS
from provfl_cli.evaluation.ranges import cut, inputs_of, range_of

SHARE = (0.0, 1.0)


@pytest.mark.parametrize(("hits", "count"), [(8, 10), (0, 7), (12, 12), (1, 400)])
def test_wilson_is_that_of_scipy(hits: int, count: int) -> None:
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson(hits / count, count) == pytest.approx((expected.low, expected.high))


def test_wilson_without_things_to_count() -> None:
    assert np.isnan(wilson(0.5, 0)).all()
    assert np.isnan(wilson(np.nan, 5)).all()
    assert wilson(0.5, np.inf) == (0.5, 0.5)


def test_shares_that_agree_promise_no_more_than_their_inputs() -> None:
    interval = mean_interval([1.0, 1.0, 1.0], range=SHARE, inputs=120)
    assert (interval.mean, interval.high) == (1.0, 1.0)
    assert interval.low == pytest.approx(stats.binomtest(120, 120).proportion_ci(method="wilson").low)
    for alike in (mean_interval([0.7, 0.7, 0.7], range=SHARE), mean_interval([3.0, 3.0, 3.0])):  # of nobody knows what
        assert np.isnan([alike.low, alike.high]).all()


def test_shares_that_differ_count_as_few() -> None:
    # mean 0.7, s = 0.1, s^2 / 3 = 0.01 / 3: as many as 0.21 / (0.01 / 3) = 63 things, times (1.96 / 4.3027)^2
    interval = mean_interval([0.6, 0.7, 0.8], range=SHARE, inputs=900)
    assert (interval.low, interval.high) == pytest.approx(wilson(0.7, 63 * (1.959964 / 4.302653) ** 2), abs=1e-5)
    assert interval.low < 0.5  # far wider than Wilson's of 900 inputs


def test_another_range_is_the_same_on_its_own_scale() -> None:
    values = [0.2, 0.5, 0.1, 0.3]
    share, both = mean_interval(values, range=SHARE), mean_interval([2 * v - 1 for v in values], range=(-1.0, 1.0))
    assert (both.mean, both.low, both.high) == pytest.approx([2 * v - 1 for v in (share.mean, share.low, share.high)])


def test_two_seeds_have_no_interval() -> None:
    """A t interval of two seeds that scored 0 and 1 reaches from -5.9 to 6.9."""
    pair = mean_interval([0.0, 1.0], range=SHARE, inputs=10)
    assert (pair.mean, pair.count) == (0.5, 2)
    assert np.isnan([pair.low, pair.high]).all()
    three = mean_interval([0.0, 1.0, 0.5], range=SHARE, inputs=10)
    assert three.low >= 0
    assert three.high <= 1


def test_open_ranges_are_cut() -> None:
    seconds = mean_interval([0.1, 0.1, 1.0], range=range_of("seconds"))
    assert seconds.low == 0
    assert seconds.high > 1
    corrected = mean_interval([1.0, 1.0, 0.4], range=range_of("chance_corrected"))
    assert corrected.high == 1
    assert corrected.low == pytest.approx(0.8 - stats.t.ppf(0.975, 2) * math.sqrt(0.12 / 3))


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(0, 1), min_size=3, max_size=6),
    inputs=st.integers(3, 300),
    bounds=st.sampled_from([SHARE, (-1.0, 1.0)]),
)
def test_an_interval_holds_its_mean_and_stays_in_range(
    values: list[float], inputs: int, bounds: tuple[float, float]
) -> None:
    interval = mean_interval(values, range=bounds, inputs=inputs)
    assert bounds[0] <= interval.low <= interval.mean + 1e-9
    assert interval.mean - 1e-9 <= interval.high <= bounds[1]


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("mean", [0.5, 0.8, 0.97])
@pytest.mark.parametrize("spread", [math.inf, 60.0, 8.0])
def test_it_covers_the_mean_over_federations(seeds: int, mean: float, spread: float) -> None:
    """Federations differ (beta), and each has 40 inputs. A t interval covers 0.75 of the hardest of these cases."""
    random, runs = np.random.default_rng(0), 400
    own = np.full((runs, seeds), mean) if math.isinf(spread) else random.beta(
        mean * spread, (1 - mean) * spread, (runs, seeds)
    )  # fmt: skip
    intervals = [mean_interval(row / 40, range=SHARE, inputs=40 * seeds) for row in random.binomial(40, own)]
    covered = np.mean([interval.low <= mean <= interval.high for interval in intervals])
    assert covered >= (0.85 if (mean, spread) == (0.97, 8.0) else 0.93)


def test_over_seeds_knows_the_inputs_of_each_metric() -> None:
    frame = pd.DataFrame(
        {
            "method": ["a"] * 4,
            "localization_accuracy": [1.0, 1.0, 1.0, np.nan],
            "inputs": [10, 20, 30, 500],
            "seconds": [1.0, 2.0, 3.0, 4.0],
        }
    )
    metrics = ["localization_accuracy", "seconds"]
    ranges = {name: range_of(name) for name in metrics}
    table = over_seeds(frame, ["method"], metrics, ranges, {"localization_accuracy": "inputs"}).set_index("metric")
    assert table.at["localization_accuracy", "low"] == pytest.approx(wilson(1.0, 60)[0])  # none of the missing seed
    assert table.at["seconds", "low"] == pytest.approx(2.5 - stats.t.ppf(0.975, 3) * np.std([1, 2, 3, 4], ddof=1) / 2)


def test_every_metric_has_a_range() -> None:
    for name in {*METRICS, *TRUTH_METRICS} - {"chance_accuracy"}:
        low, high = range_of(name)
        assert low < high
        if name.endswith("_accuracy"):
            assert (low, high) == SHARE
            assert inputs_of(name) is not None
        if name.startswith(("spearman", "lds")) and name != "lds_subsets":
            assert (low, high) == (-1.0, 1.0)
    assert range_of("removal_margin_2") == (-math.inf, math.inf)
    assert inputs_of("removal_flips_2") == "inputs"
    assert cut("tie_rate", -0.2, 1.4) == (0.0, 1.0)
    assert cut("tie_rate", -1.2, 0.4, difference=True) == (-1.0, 0.4)
    assert cut("spearman_counts", -3.0, 3.0, difference=True) == (-2.0, 2.0)
