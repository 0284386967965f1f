"""Attributions against retraining: worked by hand, against slow loops, and where the right answer is known."""

import dataclasses
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy import stats

from provfl_cli.config.faults import Faults
from provfl_cli.evaluation.against_truth import (
    DATAMODEL,
    LARGEST,
    SEED_CEILING,
    TRUTH_METRICS,
    caused,
    truth_frame,
)
from provfl_cli.evaluation.bootstrap import mean_correlation, mean_over_inputs
from provfl_cli.evaluation.contributions import tidy
from provfl_cli.evaluation.lds import PENALTIES, datamodel_scores, lds, ridge, subset_scores
from provfl_cli.evaluation.metrics import localization
from provfl_cli.evaluation.planted import auroc, error_rates, parts, stated_by_votes, votes
from provfl_cli.evaluation.rank_correlation import correlation, ordered
from provfl_cli.evaluation.ranking import order
from provfl_cli.evaluation.removal import fall, first_clients, random_fall
from provfl_cli.evaluation.truth import Retrained, retrained_from, rounds_retrained
from tests.linear_federations import LinearFederation, Plan, halves, linear_federation, tables, usual_plan

NOTHING = Faults((), ())


def traced(
    contributions: ArrayLike,
    inputs: np.ndarray,
    labels: ArrayLike | None = None,
    predictions: ArrayLike | None = None,
    candidates: np.ndarray | None = None,
    method: str = "provfl",
    number: int = 5,
) -> pd.DataFrame:
    n, k = np.shape(contributions)
    true = np.zeros(n, dtype=int) if labels is None else np.asarray(labels)
    return tidy(
        method, "round", "margin", number, inputs, true, true if predictions is None else np.asarray(predictions),
        range(k), np.ones(k, bool) if candidates is None else candidates, np.asarray(contributions, dtype=float), {},
    )  # fmt: skip


def counts_of(clients: int, classes: int = 2) -> dict[int, np.ndarray]:
    return {client: np.full(classes, 20 + client) for client in range(clients)}


def figures(
    frame: pd.DataFrame, truth: Retrained, faults: Faults = NOTHING, draws: int = 200
) -> tuple[dict[str, Any], dict[tuple[str, str], Any]]:
    """Rows of the trace by metric; and those that no trace has, by method and metric."""
    rows = truth_frame(frame, counts_of(len(truth.clients)), faults, {5: truth}, draws)
    records: list[dict[str, Any]] = rows.to_dict("records")  # type: ignore[assignment]
    return (
        {row["metric"]: row for row in records if row["scope"] == "round"},
        {(row["method"], row["metric"]): row for row in records if row["scope"] != "round"},
    )


# Reading


def small_truth() -> Retrained:
    """Three clients, two inputs, retrainings of all, without each, and a twin."""
    plan = [
        ("full", 7, [0, 1, 2]),
        ("leave_one_out", 7, [1, 2]),
        ("leave_one_out", 7, [0, 2]),
        ("leave_one_out", 7, [0, 1]),
        ("clean_twin", 7, [0, 1, 2]),
        ("halves", 8, [0, 1]),
    ]
    values = np.array([[2.0, -1.0, 1.5, 2.0, 3.0, 0.5], [1.0, 0.5, -0.5, 0.75, 0.0, 0.25]])
    predictions = np.array([[4, 1, 4, 4, 0, 4], [5, 5, 2, 5, 5, 5]])
    return retrained_from(*tables(plan, values, predictions, np.array([9, 3])), number=5)


def test_the_tables_come_back_as_arrays() -> None:
    truth = small_truth()
    np.testing.assert_array_equal(truth.inputs, [3, 9])
    np.testing.assert_array_equal(truth.clients, [0, 1, 2])
    np.testing.assert_array_equal(truth.subsets[1], [False, True, True])
    np.testing.assert_array_equal(truth.values[:, 0], [1.0, 2.0])
    np.testing.assert_array_equal(truth.predictions[:, 1], [5, 1])
    assert (truth.seed, truth.full, truth.twin) == (7, 0, 4)
    np.testing.assert_array_equal(truth.without_each, [1, 2, 3])
    assert truth.row(np.array([True, False, False])) == -1
    np.testing.assert_array_equal(truth.of_inputs(np.array([9])).values, [[2.0, -1.0, 1.5, 2.0, 3.0, 0.5]])
    with pytest.raises(ValueError, match="not"):
        truth.of_inputs(np.array([4]))


def test_the_order_of_rows_does_not_matter_and_what_diverged_is_left_out() -> None:
    plan = [("full", 0, [0, 1]), ("leave_one_out", 0, [1]), ("all", 0, []), ("leave_one_out", 0, [0])]
    values = np.arange(8.0).reshape(2, 4)
    listed, measured = tables(plan, values, values.astype(int), np.array([1, 2]))
    mixed = retrained_from(listed, measured.sample(frac=1, random_state=0), 5)
    np.testing.assert_array_equal(mixed.values, values)
    assert not mixed.subsets[2].any()
    listed["clients"] = listed["clients"].replace("", np.nan)  # as a CSV gives it back
    np.testing.assert_array_equal(retrained_from(listed, measured, 5).subsets, mixed.subsets)
    diverged = measured.assign(value=measured["value"].where(measured.index != 2))
    np.testing.assert_array_equal(retrained_from(listed, diverged, 5).values, values[:, [0, 2, 3]])
    never = measured[measured["retraining"] != 3]
    np.testing.assert_array_equal(retrained_from(listed, never, 5, clients=[0, 1]).values, values[:, :3])
    with pytest.raises(ValueError, match="not one value"):
        retrained_from(listed, measured.iloc[1:], 5)
    with pytest.raises(ValueError, match="not in the federation"):
        retrained_from(listed, measured, 5, clients=[0])
    with pytest.raises(ValueError, match="not listed"):
        retrained_from(listed.iloc[1:], measured, 5)
    assert list(rounds_retrained(listed, measured, [0, 1])) == [5]


# Linear datamodeling score


def test_the_score_by_hand() -> None:
    # Contributions 3, 2, 0, -1 of four clients; the six pairs have the sums 5, 3, 2, 2, 1, -1 (a tie at 2).
    subsets = np.zeros((6, 4), dtype=bool)
    for row, pair in enumerate(combinations(range(4), 2)):
        subsets[row, list(pair)] = True
    contributions = np.array([[3.0, 2, 0, -1]] * 5)
    values = np.array(
        [
            [50.0, 30, 21, 20, 10, -7],  # the same order; the tie is none here: ranks 2.5, 2.5 against 3, 4
            [-50.0, -30, -20, -20, -10, 7],  # the other way round, tied where the sums are
            [1.0, 1, 1, 1, 1, 1],  # nothing to tell
            [30.0, 50, 20, 20, 10, -7],  # the best two exchanged: 1 - 6 * 2 / (6 * 35), but for the tie
            [0.0, 0, 0, 0, 0, 1],
        ]
    )
    found = lds(contributions, subsets, values)
    # ranks of the sums 6, 5, 3.5, 3.5, 2, 1 (sum of squares about the mean 17); of the first values 6, 5, 4, 3, 2, 1
    assert found[0] == pytest.approx(17 / np.sqrt(17 * 17.5))
    assert found[1] == pytest.approx(-1)
    assert np.isnan(found[2])
    assert found[3] == pytest.approx((17 - 1) / 17)  # 2.5 * 2.5 + 1.5 * 1.5 becomes 2 * 2.5 * 1.5
    # the last is the smallest sum and the only large value: -2.5 times the deviations -0.5 (five times) and 2.5
    assert found[4] == pytest.approx((-2.5 * 2.5 + 2.5 * -0.5) / np.sqrt(17 * 7.5))
    assert lds(np.zeros((1, 4)), subsets, values[:1])[0] == 0.0  # says nothing
    assert lds(np.full((1, 4), 0.1), subsets, values[:1])[0] == 0.0  # nor does the same for everybody


def test_sums_that_differ_by_rounding_alone_are_tied() -> None:
    subsets = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=bool)
    contributions = np.array([[0.1, 0.2, 0.3, 1e-17]])  # 0.1 + 0.2 is not 0.3
    sums = contributions @ subsets.T
    assert sums[0, 0] != sums[0, 1]
    assert len(np.unique(subset_scores(contributions, subsets))) == 1


values_with_ties = st.lists(st.integers(-3, 3).map(float), min_size=7, max_size=7)


@settings(max_examples=40, deadline=None)
@given(scores=values_with_ties, truth=values_with_ties, times=st.lists(st.integers(0, 3), min_size=7, max_size=7))
def test_columns_that_count_several_times(scores: list[float], truth: list[float], times: list[int]) -> None:
    repeated = np.repeat(np.arange(7), times)
    ours = correlation(ordered(np.array([scores])), ordered(np.array([truth])), np.array(times))[0]
    these, those = np.array(scores)[repeated], np.array(truth)[repeated]
    if len(set(those)) < 2:
        assert np.isnan(ours)
    elif len(set(these)) < 2:
        assert ours == 0
    else:
        assert ours == pytest.approx(stats.spearmanr(these, those).statistic)


def test_the_interval_is_that_of_a_loop_over_draws() -> None:
    random = np.random.default_rng(3)
    scores, truth = random.normal(size=(5, 9)).round(1), random.normal(size=(5, 9)).round(1)
    ours = mean_correlation(ordered(scores), ordered(truth), draws=40, seed=2)
    draws, means = np.random.default_rng(2), []
    for _ in range(40):
        inputs = draws.integers(5, size=5)
        columns = draws.integers(9, size=9)
        means.append(np.mean([stats.spearmanr(scores[i, columns], truth[i, columns]).statistic for i in inputs]))
    assert ours.mean == pytest.approx(
        np.mean([stats.spearmanr(*pair).statistic for pair in zip(scores, truth, strict=True)])
    )
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert ours.count == 5


def test_intervals_without_enough_to_draw_from() -> None:
    none = mean_over_inputs(np.array([0.5, np.nan]))
    assert (none.mean, none.count) == (0.5, 1)
    assert np.isnan([none.low, none.high]).all()
    several = mean_over_inputs(np.array([0.0, 1.0, np.nan, 1.0, 0.0]), draws=500)
    assert several.mean == 0.5
    assert several.low < 0.5 < several.high
    assert (several.low, several.high) == (0.0, 1.0) or several.high - several.low < 1
    assert np.isnan(mean_over_inputs(np.empty(0)).mean)


def test_drawing_subsets_too_covers_what_drawing_inputs_alone_does_not() -> None:
    """Inputs that share their noise over subsets: the mean over all subsets there are is 0."""
    covered = {True: 0, False: 0}
    for seed in range(60):
        random = np.random.default_rng(seed)
        shared, scores = random.normal(size=(1, 12)), random.normal(size=(1, 12)).repeat(20, axis=0)
        truth = shared + 0.3 * random.normal(size=(20, 12))
        both = mean_correlation(ordered(scores), ordered(truth), draws=80)
        alone = mean_over_inputs(correlation(ordered(scores), ordered(truth)), draws=80)
        for interval, subsets in ((both, True), (alone, False)):
            covered[subsets] += interval.low <= 0 <= interval.high
    assert covered[True] >= 54
    assert covered[False] < 30


# Where the right answer is known


@pytest.fixture(scope="module")
def federation() -> LinearFederation:
    return linear_federation()


@pytest.fixture(scope="module")
def truth(federation: LinearFederation) -> Retrained:
    return retrained_from(*federation.retrained(usual_plan(8, again=10)), number=5)


def test_the_exact_effect_scores_one(federation: LinearFederation, truth: Retrained) -> None:
    own, beside = figures(traced(federation.effects, truth.inputs), truth)
    for metric in ("lds", "spearman_retrain", "top1_retrain"):
        assert own[metric]["mean"] == pytest.approx(1.0)
    assert (own["lds"]["low"], own["lds"]["high"]) == pytest.approx((1.0, 1.0))
    assert (own["lds"]["inputs"], own["lds"]["subsets"]) == (30, 20)
    assert own["top1_retrain"]["chance"] == pytest.approx(1 / 8)
    assert beside[(DATAMODEL, "lds")]["mean"] > 0.95  # a linear model of what is linear
    assert 0.5 < beside[(SEED_CEILING, "lds")]["mean"] < 1
    assert beside[(SEED_CEILING, "lds")]["subsets"] == 10
    # without a client the margin falls by (its effect minus the mean of the others') / 8
    top = federation.effects.mean(axis=0).max()
    rest = (federation.effects.sum(axis=1).mean() - top) / 7
    assert own["removal_margin_1"]["mean"] == pytest.approx((top - rest) / 8)
    assert own["removal_margin_1"]["chance"] == pytest.approx(0.0, abs=1e-12)  # the mean over all clients
    assert "removal_margin_2" not in own  # nobody retrained without two


def test_random_scores_are_zero_within_their_interval(truth: Retrained) -> None:
    within = 0
    for seed in range(10):
        scores = np.random.default_rng(seed).normal(size=(30, 8))
        own, _ = figures(traced(scores, truth.inputs), truth)
        within += own["lds"]["low"] <= 0 <= own["lds"]["high"]
        assert abs(own["lds"]["mean"]) < 0.3
    assert within >= 9


def test_the_wrong_sign_scores_minus_one(federation: LinearFederation, truth: Retrained) -> None:
    own, _ = figures(traced(-federation.effects, truth.inputs), truth)
    assert own["lds"]["mean"] == pytest.approx(-1)
    assert own["spearman_retrain"]["mean"] == pytest.approx(-1)
    assert own["top1_retrain"]["mean"] == 0


def test_who_took_no_part_in_the_round_contributes_nothing(federation: LinearFederation, truth: Retrained) -> None:
    effects, used = federation.effects, np.arange(8) != 2
    own, _ = figures(traced(np.where(used, effects, 5.0), truth.inputs, candidates=used), truth)
    silent = np.where(used, effects, 0.0)
    rows = truth.random_rows
    assert own["lds"]["mean"] == pytest.approx(np.nanmean(lds(silent, truth.subsets[rows], truth.values[:, rows])))
    tops = np.where(used, effects, -np.inf).argmax(axis=1)
    assert own["top1_retrain"]["mean"] == pytest.approx((tops == effects.argmax(axis=1)).mean())


def test_columns_of_the_localization_table(federation: LinearFederation, truth: Retrained) -> None:
    inputs = truth.inputs
    frame = pd.concat(
        [
            traced(federation.effects, inputs),
            traced(-federation.effects, inputs, method="wrong"),
            traced(federation.effects, inputs, number=4),  # nothing was retrained for this round
        ],
        ignore_index=True,
    )
    counts = counts_of(8)
    plain = localization(frame, counts, 10, NOTHING)
    scores = localization(frame, counts, 10, NOTHING, retrained={5: truth})
    assert not set(TRUTH_METRICS) & set(plain)
    assert list(scores.columns) == [*plain.columns, *TRUTH_METRICS]
    pd.testing.assert_frame_equal(scores[plain.columns], plain)
    row, wrong, other = (scores.iloc[number] for number in range(3))
    rows = truth_frame(frame, counts, NOTHING, {5: truth}, draws=0).set_index(["method", "metric"])["mean"]
    assert row["lds"] == rows["provfl", "lds"]
    assert wrong["lds"] == rows["wrong", "lds"]
    assert row["lds_seed_ceiling"] == wrong["lds_seed_ceiling"] == rows[SEED_CEILING, "lds"]
    assert row["lds_datamodel"] == rows[DATAMODEL, "lds"]
    assert row["removal_margin_1_largest"] == rows[LARGEST, "removal_margin_1"]
    assert (row["lds_subsets"], row["top1_retrain_chance"]) == (20, pytest.approx(1 / 8))
    assert other[list(TRUTH_METRICS)].isna().all()


def test_ridge_by_a_loop() -> None:
    random = np.random.default_rng(1)
    subsets, values = random.random((12, 4)) < 0.5, random.normal(size=(3, 12))

    def fitted(rows: np.ndarray, value: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
        x = subsets[rows].astype(float)
        ones = np.column_stack([np.ones(len(x)), x])
        solved = np.linalg.solve(ones.T @ ones + penalty * np.diag([0, 1, 1, 1, 1]), ones.T @ value[rows])
        return solved[0], solved[1:]

    for value, ours in zip(values, ridge(subsets, values), strict=True):
        errors = []
        for penalty in PENALTIES:
            missed = 0.0
            for left in range(12):
                intercept, slopes = fitted(np.arange(12) != left, value, penalty)
                missed += (value[left] - intercept - subsets[left] @ slopes) ** 2
            errors.append(missed)
        best = PENALTIES[int(np.argmin(errors))]
        np.testing.assert_allclose(ours, fitted(np.ones(12, dtype=bool), value, best)[1], atol=1e-9)


def test_a_datamodel_knows_nothing_of_noise() -> None:
    """Fitted to other subsets it scores hardly less than 0; with the intercepts of the folds it would be -0.2."""
    kept = np.array([np.isin(np.arange(10), subset) for subset in halves(10, 40)])
    values = np.random.default_rng(0).normal(size=(300, 40))
    found = correlation(ordered(datamodel_scores(kept, values)), ordered(values))
    assert abs(found.mean()) < 0.08
    effects = np.random.default_rng(1).normal(size=(5, 10))
    linear = effects @ kept.T
    assert correlation(ordered(datamodel_scores(kept, linear)), ordered(linear)).min() > 0.99


# Removal


def test_removal_by_hand() -> None:
    truth = small_truth()  # inputs 3 and 9
    np.testing.assert_array_equal(first_clients(np.array([1.0, 3.0, 2.0]), 1), [False, True, False])
    np.testing.assert_array_equal(first_clients(np.array([1.0, 3.0, 3.0, 1.0]), 3), [True, True, True, False])
    without_1 = fall(truth, np.array([1.0, 3.0, 2.0]), 1)
    assert without_1 is not None
    np.testing.assert_allclose(without_1.margin, [1.0 - (-0.5), 2.0 - 1.5])
    np.testing.assert_array_equal(without_1.flips, [1, 0])  # 5 becomes 2, 4 stays
    drawn = random_fall(truth, 1)
    assert drawn is not None
    np.testing.assert_allclose(drawn.margin, [1.0 - (0.5 - 0.5 + 0.75) / 3, 2.0 - (-1.0 + 1.5 + 2.0) / 3])
    np.testing.assert_allclose(drawn.flips, [1 / 3, 1 / 3])
    assert fall(truth, np.array([1.0, 3.0, 2.0]), 2) is None  # the half without 2 has another seed
    assert random_fall(truth, 2) is None


def test_removal_follows_the_scores_of_its_own_trace_and_round() -> None:
    plan: Plan = [
        ("full", 0, [0, 1, 2, 3]),
        *(("removal", 0, kept) for kept in ([0, 1], [2, 3], [0, 2], [1, 3], [0, 3])),
    ]
    values = np.array([[5.0, 4, 3, 1, 2, 0]])
    listed, measured = tables(plan, values, np.array([[1, 1, 2, 2, 1, 1]]), np.array([8]))
    listed["removes"] = ["", "provfl", "provfl:lineage", "random 1", "random 2", "largest"]
    listed["removes"] = listed["removes"].replace("", None)  # as a CSV gives it back
    truth = retrained_from(listed, measured, 5)
    found = [fall(truth, np.array(scores), 2) for scores in ([0.0, 0, 1, 1], [1.0, 1, 0, 0], [0.0, 1, 1, 0])]
    assert [None if one is None else one.margin[0] for one in found] == [1.0, 2.0, 5.0]
    assert [None if one is None else one.flips[0] for one in found] == [0.0, 1.0, 0.0]
    drawn = random_fall(truth, 2)
    assert drawn is not None
    assert (drawn.margin[0], drawn.flips[0], drawn.sets) == (3.5, 0.5, 2)
    frames = [traced([[0.0, 0, 1, 1]], np.array([8])), traced([[1.0, 1, 0, 0]], np.array([8]))]
    frames[1]["scope"] = "lineage"
    # In an earlier round the top clients of the same method are others; of a third nobody was trained without them.
    frames += [traced([[0.0, 1, 1, 0]], np.array([8]), number=4), traced([[1.0, 0, 0, 1]], np.array([8]), number=3)]
    by_round = {5: truth, 4: retrained_from(listed, measured.assign(round=4), 4)}
    without_last = listed[listed["removes"] != "random 1"].assign(retraining=lambda rows: rows["retraining"])
    answers = measured[measured["retraining"].isin(without_last["retraining"])].assign(round=3)
    by_round[3] = retrained_from(without_last, answers, 3)
    rows = truth_frame(pd.concat(frames), counts_of(4), NOTHING, by_round, 0)
    shown = rows[rows["metric"] == "removal_margin_2"].set_index(["method", "scope", "round"])["mean"]
    assert shown[shown.index.get_level_values("method") == "provfl"].to_dict() == {
        ("provfl", "round", 5): 1.0,
        ("provfl", "lineage", 5): 2.0,
        ("provfl", "round", 4): 5.0,
    }
    # counts_of makes 2 and 3 the largest
    assert shown[LARGEST, "retrained", 5] == 1.0


def test_removal_over_all_subsets(federation: LinearFederation) -> None:
    small = dataclasses.replace(federation, updates=federation.updates[:5])
    plan = [("all", 0, kept) for size in range(6) for kept in combinations(range(5), size)]
    truth = retrained_from(*small.retrained(plan), number=5)
    whole = truth.values[:, [truth.full]]
    own, beside = figures(traced(small.effects, truth.inputs), truth)
    order_of = np.argsort(-small.effects.mean(axis=0))
    for count in (1, 2, 3):
        row = own[f"removal_margin_{count}"]
        without = truth.values[:, [truth.row(~np.isin(range(5), order_of[:count]))]]
        assert row["mean"] == pytest.approx((whole - without).mean())
        assert row["mean"] > row["chance"]
        assert row["low"] < row["mean"] < row["high"]
        fallen = [
            whole[:, 0] - truth.values[:, truth.row(np.isin(range(5), kept))]
            for kept in combinations(range(5), 5 - count)
        ]
        assert row["chance"] == pytest.approx(np.mean(fallen))
        largest = truth.values[:, [truth.row(np.arange(5) < 5 - count)]]  # counts_of makes the last ones the largest
        assert beside[LARGEST, f"removal_margin_{count}"]["mean"] == pytest.approx((whole - largest).mean())


# Planted behaviours


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4).map(float), st.booleans()), min_size=1, max_size=9))
def test_auroc_is_the_share_of_pairs(clients: list[tuple[float, bool]]) -> None:
    scores, planted = (np.array(column) for column in zip(*clients, strict=True))
    inside, outside = scores[planted], scores[~planted]
    if not len(inside) or not len(outside):
        assert np.isnan(auroc(scores, planted))
        return
    pairs = [1.0 if one > other else 0.5 if one == other else 0.0 for one in inside for other in outside]
    assert auroc(scores, planted) == pytest.approx(np.mean(pairs))


def test_error_rates_by_hand() -> None:
    planted = np.array([True, True, False, False, False])
    assert error_rates(np.array([True, False, True, False, False]), planted) == pytest.approx((1 / 3, 0.5))
    assert error_rates(np.zeros(5, dtype=bool), planted) == (0.0, 1.0)
    clean = error_rates(np.array([True, False]), np.zeros(2, dtype=bool))
    assert clean[0] == 0.5
    assert np.isnan(clean[1])


def test_parts_and_votes_by_hand() -> None:
    contributions = np.array([[3.0, -1, 0], [0, 0, 0], [1, 1, 2]])
    np.testing.assert_allclose(parts(contributions), [(0.75 + 0.25) / 3, (-0.25 + 0.25) / 3, 0.5 / 3])
    np.testing.assert_allclose(votes(order(np.array([[1, 2, 3], [1, 1, 1], [2, 2, 1]]))), [4 / 3, 1 / 3, 4 / 3])


def test_nobody_is_stated_where_everybody_is_on_top_equally_often() -> None:
    rng, stated = np.random.default_rng(0), 0
    for _ in range(200):
        rank = rng.permuted(np.tile(np.arange(1, 11), (60, 1)), axis=1)
        stated += bool(stated_by_votes(order(rank)).any())
    assert stated <= 16  # 0.05 of 200, and three standard deviations more
    always = np.tile([2, 1, 3], (9, 1))
    np.testing.assert_array_equal(stated_by_votes(order(always)), [False, True, False])
    assert not stated_by_votes(order(np.ones((9, 3), dtype=int))).any()  # all tied
    # of 9 inputs and 3 clients 7 or more are on one by chance with 0.008, 6 or more with 0.042; 0.05 / 3 is 0.017
    seven, six = (np.array([[1, 2, 3]] * count + [[3, 2, 1]] * (9 - count)) for count in (7, 6))
    np.testing.assert_array_equal(stated_by_votes(order(seven)), [True, False, False])
    assert not stated_by_votes(order(six)).any()
    assert not stated_by_votes(order(np.empty((0, 3), dtype=int))).any()


def twin_truth(twin_predictions: list[int], without: list[int] | None = None) -> Retrained:
    n = len(twin_predictions)
    plan: Plan = [("full", 0, [0, 1, 2]), ("clean_twin", 0, [0, 1, 2])]
    predictions = [np.full(n, 9), np.asarray(twin_predictions)]
    if without is not None:
        plan = [*plan, ("leave_one_out", 0, [0, 2])]
        predictions.append(np.asarray(without))
    return retrained_from(*tables(plan, np.zeros((n, len(plan))), np.stack(predictions, 1), np.arange(n)), number=5)


def test_what_the_fault_caused() -> None:
    # Client 1 flips 7 to 2. The twin is right about the first and the third input. The third does not look like it.
    labels, predictions = np.array([7, 7, 7, 7, 4]), np.array([2, 2, 3, 7, 2])
    truth = twin_truth([7, 2, 7, 7, 4])
    found, wanted = caused(labels, predictions, truth, Faults((1,), ((7, 2),)))
    np.testing.assert_array_equal(found, [True, False, False, False, False])
    np.testing.assert_array_equal(wanted[0], [False, True, False])
    every, _ = caused(labels, predictions, truth, Faults((1,), ()))  # nothing is known of its looks
    np.testing.assert_array_equal(every, [True, False, True, False, True])
    contributions = np.array([[0.0, 2, 1], [3, 0, 0], [3, 0, 0], [3, 0, 0], [3, 0, 0]])
    frame = traced(contributions, np.arange(5), labels, predictions)
    faults = Faults((1,), ((7, 2),))
    own, _ = figures(frame, truth, faults)
    assert [own["caused_accuracy"]["mean"], own["caused_accuracy"]["chance"], own["caused_accuracy"]["inputs"]] == [
        1.0,
        pytest.approx(1 / 3),
        1,
    ]
    assert own["caused_accuracy"]["low"] < 0.3  # of one input
    assert own["caused_corrected"]["mean"] == pytest.approx(1.0)
    assert own["caused_auroc"]["mean"] == 1.0
    counts = {client: np.full(10, 20) for client in range(3)}
    scores = localization(frame, counts, 10, faults, retrained={5: truth}).iloc[0]
    assert (scores["caused_inputs"], scores["caused_accuracy"], scores["caused_corrected"]) == (
        1,
        1.0,
        pytest.approx(1.0),
    )
    assert scores["fault_accuracy"] == 0.5  # of all that look like it


def test_a_fault_that_did_nothing_has_no_row() -> None:
    labels, predictions = np.array([7, 7, 1]), np.array([2, 2, 1])
    truth, faults = twin_truth([2, 2, 1]), Faults((1,), ((7, 2),))
    frame = traced(np.eye(3), np.arange(3), labels, predictions)
    own, _ = figures(frame, truth, faults)
    assert not [metric for metric in own if metric.startswith("caused")]
    row = localization(frame, {k: np.full(10, 20) for k in range(3)}, 10, faults, retrained={5: truth}).iloc[0]
    assert row["caused_inputs"] == 0
    assert row[["caused_accuracy", "caused_chance", "caused_corrected", "caused_auroc"]].isna().all()


def test_an_exclusive_label_scores_one() -> None:
    # Client 1 alone holds label 4; retrained without it nobody predicts 4.
    labels = predictions = np.array([4, 4, 0])
    truth = twin_truth([4, 4, 0], without=[0, 2, 0])
    frame = traced([[0, 2, 1], [0, 3, 1], [4, 0, 0]], np.arange(3), labels, predictions)
    own, _ = figures(frame, truth, Faults((), (), exclusive=((1, 4),)))
    assert [own["caused_accuracy"]["mean"], own["caused_accuracy"]["inputs"]] == [1.0, 2]
    assert own["caused_auroc"]["mean"] == 1.0


def test_a_planted_client_that_is_not_ranked_is_missed() -> None:
    labels, predictions = np.array([7]), np.array([2])
    frame = traced([[2.0, 0, 1]], np.arange(1), labels, predictions, candidates=np.array([True, False, True]))
    own, _ = figures(frame, twin_truth([7]), Faults((1,), ((7, 2),)))
    assert own["caused_accuracy"]["mean"] == 0.0


def test_whom_a_trace_blames() -> None:
    # Client 1 of 3 is faulty, and on top of all nine mispredictions; the last input is right.
    contributions = np.array([[0.0, 2, 1]] * 9 + [[3.0, 0, 0]])
    labels = np.array([7] * 9 + [1])
    frame = traced(contributions, np.arange(10), labels, [2] * 9 + [1])
    counts = {client: np.full(10, 20) for client in range(3)}
    row = localization(frame, counts, 10, Faults((1,), ((7, 2),))).iloc[0]
    assert (row["blamed_inputs"], row["blamed_auroc"], row["stated_clients"]) == (9, 1.0, 1)
    assert (row["stated_fpr"], row["stated_fnr"], row["named_most"]) == (0.0, 0.0, 0.9)
    clean = localization(frame, counts, 10, NOTHING).iloc[0]  # the same in a clean federation: a false alarm
    assert (clean["stated_clients"], clean["stated_fpr"]) == (1, pytest.approx(1 / 3))
    assert np.isnan([clean["blamed_auroc"], clean["stated_fnr"]]).all()
    right = localization(traced(contributions, np.arange(10), labels), counts, 10, NOTHING).iloc[0]
    assert right["blamed_inputs"] == 0
    assert np.isnan(right["stated_clients"])
