"""Metrics on cases worked by hand, and what must hold whatever the contributions are."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from provfl_cli.data.federated import Faults
from provfl_cli.errors import RunError
from provfl_cli.evaluation.contributions import COLUMNS, ranks, tidy, traces
from provfl_cli.evaluation.intervals import mean_interval, over_seeds
from provfl_cli.evaluation.metrics import METRICS, localization
from provfl_cli.evaluation.ranges import range_of
from provfl_cli.evaluation.ranking import hit, ndcg, no_order, order, spearman

NOTHING = Faults((), ())


def frame_of(
    contributions, labels, predictions=None, clients=None, candidates=None, method="provfl", round=1, rows=None
):
    contributions = np.asarray(contributions, dtype=float)
    n, k = contributions.shape
    labels = np.asarray(labels)
    return tidy(
        method=method,
        scope="round",
        target="centred",
        round=round,
        inputs=np.arange(n) * 3 + 5,
        labels=labels,
        predictions=labels if predictions is None else np.asarray(predictions),
        clients=list(range(k)) if clients is None else clients,
        candidates=np.ones(k, bool) if candidates is None else np.asarray(candidates),
        contributions=contributions,
        rows=rows or {},
    )


def score(frame, counts, min_examples=10, faults=NOTHING):
    scores = localization(frame, {k: np.asarray(v) for k, v in counts.items()}, min_examples, faults)
    assert len(scores) == 1
    return scores.iloc[0]


# The hand-worked case: 3 clients, 2 labels, at least 10 examples make a holder.
#   client 0 holds 20 of label 0 and  0 of label 1
#   client 1 holds 10 of label 0 and 30 of label 1
#   client 2 holds  5 of label 0 and 40 of label 1
COUNTS = {0: [20, 0], 1: [10, 30], 2: [5, 40]}
#   input a, label 0, H = {0, 1}: contributions 3, 1, 0   top 0: hit, and the largest holder
#   input b, label 0, H = {0, 1}: contributions 0, 2, 2   top {1, 2} tied: hit 1/2, largest holder (0) missed
#   input c, label 1, H = {1, 2}: contributions 4, 1, 2   top 0: missed
#   input d, label 1, H = {1, 2}: contributions 0, 1, 3   top 2: hit, and the largest holder
CONTRIBUTIONS = [[3, 1, 0], [0, 2, 2], [4, 1, 2], [0, 1, 3]]
LABELS = [0, 0, 1, 1]


def test_hand_worked_localization():
    row = score(frame_of(CONTRIBUTIONS, LABELS), COUNTS)
    assert row["inputs"] == 4
    assert row["clients"] == 3
    assert row["no_holder"] == 0
    assert row["localization_accuracy"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert row["chance_accuracy"] == pytest.approx(2 / 3)
    assert row["chance_corrected"] == pytest.approx((0.625 - 2 / 3) / (1 / 3))
    # naming client 1 hits all four inputs, client 0 or 2 only half of them
    assert row["best_constant"] == 1.0
    assert row["majority_accuracy"] == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert row["majority_chance"] == pytest.approx(1 / 3)
    assert row["tie_rate"] == pytest.approx(1 / 4)
    # (3-1)/4, (2-2)/4, (4-2)/7, (3-1)/4
    assert row["gap"] == pytest.approx((2 / 4 + 0 + 2 / 7 + 2 / 4) / 4)


def test_hand_worked_ranking_against_counts():
    row = score(frame_of(CONTRIBUTIONS, LABELS), COUNTS)
    d = [1.0, 1 / math.log2(3), 0.5]  # discounts of positions 1, 2, 3
    best = [20 * d[0] + 10 * d[1] + 5 * d[2], 40 * d[0] + 30 * d[1]]
    gains = [
        1.0,  # a: order 0, 1, 2 with 20, 10, 5 examples: the best there is
        (20 * d[2] + (10 + 5) * (d[0] + d[1]) / 2) / best[0],  # b: 1 and 2 share positions 1 and 2, 0 is third
        (0 * d[0] + 40 * d[1] + 30 * d[2]) / best[1],  # c: order 0, 2, 1
        1.0,  # d: order 2, 1, 0
    ]
    assert row["ndcg"] == pytest.approx(np.mean(gains))
    assert row["ndcg_chance"] == pytest.approx(
        np.mean([35 * sum(d) / 3 / best[0]] * 2 + [70 * sum(d) / 3 / best[1]] * 2)
    )
    # Spearman of 3 ranks: a 1; b ranks (1, 2.5, 2.5) with (3, 2, 1): -sqrt(3)/2; c (3, 1, 2) with (1, 2, 3): -0.5; d 1
    assert row["spearman_counts"] == pytest.approx((1 - math.sqrt(3) / 2 - 0.5 + 1) / 4)


def test_hand_worked_faults():
    # Clients 1 and 3 of 4 flip 7 to 1. Looked at: inputs with label 7 that are predicted 1, the first two.
    #   first:  contributions 1, 5, 0, 2   top client 1: faulty; top 3 as well
    #   second: contributions 4, 0, 4, 1   top {0, 2}: not faulty; top 3 holds client 3
    #   third:  7 predicted 0: not this fault; fourth: right
    frame = frame_of([[1, 5, 0, 2], [4, 0, 4, 1], [1, 0, 0, 0], [1, 0, 0, 0]], [7, 7, 7, 7], [1, 1, 0, 7])
    counts = {k: np.full(10, 20) for k in range(4)}
    row = score(frame, counts, faults=Faults((1, 3), ((7, 1), (3, 3))))
    assert row["fault_inputs"] == 2
    assert row["fault_accuracy"] == pytest.approx(0.5)
    assert row["fault_chance"] == pytest.approx(2 / 4)
    assert row["hit@3"] == 1.0
    assert row["hit@3_chance"] == pytest.approx(1.0)  # 1 - C(2,3)/C(4,3): no three clients avoid both faulty ones
    assert row["hit@5"] == 1.0  # all four clients

    ten = frame_of([[0.0] * 10], [7], [1])
    row = score(ten, {k: np.full(10, 20) for k in range(10)}, faults=Faults((1, 3), ((7, 1),)))
    expected = 1 - math.comb(8, 3) / math.comb(10, 3)
    assert row["hit@3_chance"] == pytest.approx(expected)
    assert row["hit@3"] == pytest.approx(expected)  # all tied: as good as chance, no better
    assert row["fault_accuracy"] == pytest.approx(2 / 10)


def test_the_share_of_predictions_that_the_faulty_clients_are_responsible_for():
    frame = frame_of([[1, 5], [4, 0], [1, 0], [1, 0]], [7, 7, 7, 7], [1, 1, 0, 7])
    counts = {k: np.full(10, 20) for k in range(2)}
    assert score(frame, counts, faults=Faults((1,), ((7, 1),)))["fault_share"] == 0.5
    assert (
        score(frame, counts, faults=Faults((5,), ((7, 1),)))["fault_share"] == 0.5
    )  # whether it is a candidate or not
    assert math.isnan(score(frame, counts)["fault_share"])


def measured(classes, labels, predictions, method="leave_one_out", **more):
    """What leaving each client out predicts, as the method that measures it writes it; effects are all 0."""
    frame = frame_of(np.zeros(np.shape(classes)), labels, predictions, method=method, **more)
    return frame.assign(without=pd.array(np.ravel(classes), dtype="Int32"))


def test_hand_worked_corrected_faults():
    # Clients 1 and 3 of 4 flip 7 to 1. What is predicted without each client, of five inputs of label 7:
    #   7, 7, 1, 1: right without client 1                          corrected; top client 1: found
    #   7, 1, 7, 1: right without clients that are not faulty       not corrected
    #   1, 1, 1, 7: right without client 3                          corrected; top {0, 3}: half
    #   1, 2, 1, 3: without the faulty ones another wrong answer    not corrected
    #   7, 7, 7, 7: was right anyway                                not looked at
    classes = [[7, 7, 1, 1], [7, 1, 7, 1], [1, 1, 1, 7], [1, 2, 1, 3], [7, 7, 7, 7]]
    ours = [[0, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 1], [0, 1, 0, 0], [0, 1, 0, 0]]
    what = ([7] * 5, [1, 1, 1, 1, 7])
    counts = {k: np.full(10, 20) for k in range(4)}
    faults = Faults((1, 3), ((7, 1),))

    def scored(*frames):
        return localization(pd.concat([frame_of(ours, *what), *frames]), counts, 10, faults).iloc[0]

    withhold = "leave_one_out_withhold"
    for method in ("leave_one_out", withhold):
        row = scored(measured(classes, *what, method))
        assert row["fault_inputs"] == 4
        assert row["fault_accuracy"] == pytest.approx((1 + 1 + 0.5 + 1) / 4)
        assert row["corrected_inputs"] == 2
        assert row["corrected_accuracy"] == pytest.approx((1 + 0.5) / 2)
    # Both measured: withholding counts, where it says what is predicted.
    never = np.ones((5, 4), int)
    assert scored(measured(never, *what), measured(classes, *what, withhold))["corrected_inputs"] == 2
    none = scored(measured(classes, *what), measured(never, *what, withhold))
    assert none["corrected_inputs"] == 0
    assert math.isnan(none["corrected_accuracy"])
    silent = measured(never, *what, withhold).drop(columns="without")
    assert scored(measured(classes, *what), silent)["corrected_inputs"] == 2
    # Not measured, or of other inputs.
    for frames in ([], [silent], [measured(classes[:3], [7] * 3, [1] * 3)]):
        assert math.isnan(scored(*frames)["corrected_inputs"])
        assert math.isnan(scored(*frames)["corrected_accuracy"])


def test_what_is_predicted_without_a_client_comes_back():
    classes = np.array([[7, 1, 2], [3, 4, 5]])
    frame = measured(classes, [7, 7], [1, 1], candidates=[True, False, True])
    shuffled = pd.concat([frame, frame_of(np.zeros((2, 3)), [7, 7])]).sample(frac=1, random_state=0)
    without = {key[0]: trace.without for key, trace in traces(shuffled)}
    assert without["leave_one_out"].tolist() == [[7, 2], [3, 5]]
    assert without["provfl"] is None


def test_hand_worked_newcomers():
    # In round 2 clients 2, 3 and 9 are new, of whom 9 is no candidate (of four).
    #   top client 2: new; top {0, 3} tied: half; top client 1: not new
    frame = frame_of([[0, 1, 5, 2], [4, 0, 1, 4], [0, 3, 1, 2]], [0, 0, 0], round=2)
    counts = {k: np.array([20]) for k in range(4)}
    frames = pd.concat([frame, frame.assign(round=1), frame.assign(scope="lineage"), frame.assign(round=3)])
    scores = localization(frames, counts, 10, NOTHING, {2: {2, 3, 9}, 3: ()}).set_index(["scope", "round"])
    row = scores.loc[("round", 2)]
    assert row["newcomer_top"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert row["newcomer_chance"] == 2 / 4
    assert scores.loc[("round", 3), ["newcomer_top", "newcomer_chance"]].tolist() == [0, 0]
    untold = scores.loc[[("round", 1), ("lineage", 2)], ["newcomer_top", "newcomer_chance"]]
    assert untold.isna().all(axis=None)
    assert math.isnan(localization(frame, counts, 10, NOTHING)["newcomer_chance"][0])


def test_hand_worked_exclusive_label():
    # Client 2 alone holds label 4. Correct predictions of it: the first, second and third.
    #   top client 2: found; top {0, 2} tied: half; top client 1: missed; 4 predicted 5 and 5 predicted 5: not these
    frame = frame_of(
        [[0, 1, 5], [3, 1, 3], [0, 2, 1], [0, 0, 9], [9, 0, 0]], [4, 4, 4, 4, 5], [4, 4, 4, 5, 5]
    )  # fmt: skip
    counts = {k: np.full(10, 20) for k in range(3)}
    row = score(frame, counts, faults=Faults((), (), exclusive=((2, 4),)))
    assert row["exclusive_inputs"] == 3
    assert row["exclusive_accuracy"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert row["exclusive_chance"] == pytest.approx(1 / 3)
    assert row["fault_inputs"] == 0
    absent = score(frame, counts, faults=Faults((), (), exclusive=((7, 4),)))
    assert absent["exclusive_inputs"] == 0
    assert math.isnan(absent["exclusive_accuracy"])
    assert math.isnan(absent["exclusive_chance"])


def test_hand_worked_free_riders_and_duplicates():
    # top: 0; {1, 2}; 3; 2
    frame = frame_of([[3, 1, 1, 0], [0, 2, 2, 1], [0, 1, 1, 9], [0, 1, 2, 0]], [0, 0, 1, 1])
    counts = {k: np.full(10, 20) for k in range(4)}
    row = score(frame, counts, faults=Faults((0, 2), (), free_riders=(0, 2), duplicates=(1, 2)))
    assert row["free_rider_top"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert row["free_rider_chance"] == pytest.approx(2 / 4)
    assert row["duplicate_ties"] == pytest.approx(3 / 4)
    none = score(frame, counts)
    assert math.isnan(none["free_rider_top"])
    assert math.isnan(none["duplicate_ties"])
    assert math.isnan(score(frame, counts, faults=Faults((), (), duplicates=(1, 9)))["duplicate_ties"]), "one of them"


def test_a_faulty_client_that_is_no_candidate_is_not_looked_for():
    frame = frame_of([[1, 5, 0]], [7], [1], candidates=[True, False, True])
    row = score(frame, {k: np.full(10, 20) for k in range(3)}, faults=Faults((1,), ((7, 1),)))
    assert row["fault_inputs"] == 0
    assert math.isnan(row["fault_accuracy"])


def test_the_top_list_may_end_inside_a_tie():
    # ranks 1, 2, 2, 2: of the top 2 the second is drawn from three clients, one of them wanted
    ranking = order(np.array([[1, 2, 2, 2]]))
    assert hit(ranking, np.array([[False, True, False, False]]), 2) == pytest.approx([1 / 3])
    assert hit(ranking, np.array([[False, True, True, False]]), 2) == pytest.approx([2 / 3])
    assert hit(ranking, np.array([[True, False, False, False]]), 2) == pytest.approx([1.0])
    assert hit(ranking, np.array([[False, True, True, False]]), 3) == pytest.approx([1.0])  # 1 - C(1,2)/C(3,2)
    assert hit(ranking, np.array([[False, True, False, False]]), 9) == pytest.approx([1.0])


def test_labels_without_holder_are_counted_and_left_out():
    row = score(frame_of([[1, 0], [0, 1]], [0, 1]), {0: [20, 3], 1: [0, 4]})
    assert row["inputs"] == 1
    assert row["no_holder"] == 1
    assert row["localization_accuracy"] == 1.0


def test_nothing_to_correct_where_everybody_holds_everything():
    row = score(frame_of([[1, 0], [0, 1]], [0, 1]), {0: [20, 20], 1: [20, 20]})
    assert row["localization_accuracy"] == row["chance_accuracy"] == 1.0
    assert math.isnan(row["chance_corrected"])
    assert math.isnan(row["spearman_counts"])  # equal counts: no order is right
    assert row["majority_accuracy"] == row["majority_chance"] == 1.0


def test_holders_that_are_no_candidates_do_not_count():
    row = score(frame_of([[9, 1, 0]], [0], candidates=[False, True, True]), {0: [90, 0], 1: [20, 0], 2: [0, 0]})
    assert row["clients"] == 2
    assert row["chance_accuracy"] == 0.5
    assert row["localization_accuracy"] == 1.0
    assert row["majority_accuracy"] == 1.0  # client 0 holds most, but had no part in the round


def test_one_row_for_each_method_and_round_and_an_empty_frame():
    frames = [frame_of(CONTRIBUTIONS, LABELS, method=m, round=r) for m in ("provfl", "tracefl") for r in (1, 2)]
    counts = {k: np.array(v) for k, v in COUNTS.items()}
    scores = localization(pd.concat(frames), counts, 10, NOTHING)
    assert list(zip(scores["method"], scores["round"], strict=True)) == [
        ("provfl", 1), ("provfl", 2), ("tracefl", 1), ("tracefl", 2),
    ]  # fmt: skip
    none = localization(frame_of(np.zeros((0, 3)), []), counts, 10, NOTHING)
    assert none.empty
    assert set(METRICS) <= set(none.columns)


def test_missing_or_repeated_contributions_are_refused():
    frame = frame_of(CONTRIBUTIONS, LABELS)
    for broken in (frame.iloc[1:], pd.concat([frame, frame.iloc[:1]])):
        with pytest.raises(ValueError, match="not one contribution"):
            list(traces(broken))
    with pytest.raises(ValueError, match="no label counts"):
        score(frame, {0: [1, 1]})


def test_the_tidy_frame():
    # client 11 is not used; tolerance 1e-6 * (3 + 3) leaves 12 and 13 tied
    frame = frame_of(
        [[1.0, 3.0, 3.0 - 1e-6, 7.0]],
        [4],
        [2],
        clients=[10, 13, 12, 11],
        candidates=[True, True, True, False],
        rows={"previous": np.array([0.25])},
    )
    assert tuple(frame.columns) == COLUMNS
    assert frame["kind"].tolist() == ["client"] * 4 + ["previous"]
    assert frame["client"].tolist() == [10, 13, 12, 11, pd.NA]
    assert frame["rank"].tolist() == [3, 1, 1, pd.NA, pd.NA]
    assert frame["tie"].tolist() == [False, True, True, pd.NA, pd.NA]
    assert frame["contribution"].tolist() == [1.0, 3.0, 3.0 - 1e-6, 7.0, 0.25]
    weights = np.exp([1.0, 3.0, 3.0 - 1e-6])
    np.testing.assert_allclose(frame["share"][:3], weights / weights.sum())
    assert frame["share"][3:].isna().all()
    assert set(frame["input"]) == {5}
    assert set(frame["label"]) == {4}
    assert set(frame["prediction"]) == {2}


def test_large_contributions_do_not_overflow_the_softmax():
    frame = frame_of([[1e5, 1e5 + 1000.0]], [0])
    assert frame["share"].tolist() == [0.0, 1.0]


def test_a_diverged_or_empty_round_is_an_error():
    with pytest.raises(RunError, match="not finite"):
        frame_of([[1.0, np.nan]], [0])
    with pytest.raises(RunError, match="none of the 2 clients"):
        frame_of([[1.0, 2.0]], [0], candidates=[False, False])
    frame_of([[1.0, np.nan]], [0], candidates=[True, False])  # who was not used does no harm


def test_ties_do_not_chain():
    # sum |T| = 1000: tolerance 1e-3. 0.9 is within it of 1.7 (in thousandths), 0 of 0.9, but 0 is not of 1.7.
    base = np.array([1.7e-3, 0.9e-3, 0.0])
    rest = 1000.0 - base.sum()
    assert ranks(np.array([[*base, -rest]])).tolist() == [[1, 1, 2, 4]]
    assert ranks(np.zeros((1, 3))).tolist() == [[1, 1, 1]]


@pytest.mark.slow
def test_metrics_need_no_torch():
    modules = "provfl_cli.evaluation.metrics, provfl_cli.evaluation.selection"
    code = f"import sys, {modules}; sys.exit('torch._C' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_thousand_clients_are_no_trouble():
    random = np.random.default_rng(0)
    contributions = random.normal(size=(100, 1000))
    labels = random.integers(0, 10, 100)
    counts = {k: random.integers(0, 12, 10) for k in range(1000)}
    row = score(frame_of(contributions, labels), counts, faults=Faults((3,), ((0, 1),)))
    assert row["spearman_counts"] == pytest.approx(0, abs=0.02)
    held = np.stack([counts[k] for k in range(1000)])
    expected = [stats.spearmanr(contributions[i], held[:, labels[i]])[0] for i in range(100)]
    assert row["spearman_counts"] == pytest.approx(np.mean(expected), abs=1e-4)  # a few pairs lie within the tolerance


@st.composite
def cases(draw):
    """Contributions on a grid of quarters (so that ties are exact or far apart), labels, counts."""
    n, k, classes = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    numbers = st.integers(-12, 12)
    contributions = np.array(draw(st.lists(st.lists(numbers, min_size=k, max_size=k), min_size=n, max_size=n))) / 4
    labels = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)))
    counts = np.array(
        draw(st.lists(st.lists(st.integers(0, 25), min_size=classes, max_size=classes), min_size=k, max_size=k))
    )
    return contributions, labels, counts


def values(contributions, labels, counts, clients=None):
    predictions = (labels + np.arange(len(labels)) % 2) % counts.shape[1]
    faults = Faults((1, 2), tuple((a, b) for a in range(3) for b in range(3)))
    clients = np.arange(len(counts)) if clients is None else clients
    frame = frame_of(contributions[:, clients], labels, predictions, clients=clients.tolist())
    return score(frame, dict(enumerate(counts)), faults=faults)[list(METRICS)].astype(float).to_numpy()


@pytest.mark.slow
@given(case=cases(), seed=st.integers(0, 99), scale=st.sampled_from([1e-9, 0.37, 3.0, 1e9]))
@settings(max_examples=25, deadline=None)
def test_neither_client_order_nor_a_positive_scale_matters(case, seed, scale):
    contributions, labels, counts = case
    plain = values(contributions, labels, counts)
    order = np.random.default_rng(seed).permutation(len(counts))
    np.testing.assert_allclose(values(contributions, labels, counts, order), plain, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(values(contributions * scale, labels, counts), plain, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@given(case=cases())
@settings(max_examples=25, deadline=None)
def test_ranges_and_the_trace_comes_back(case):
    contributions, labels, counts = case
    result = dict(zip(METRICS, values(contributions, labels, counts), strict=True))
    for name in METRICS:
        low, high = range_of(name)
        assert math.isnan(result[name]) or low - 1e-12 <= result[name] <= high + 1e-12, name
    if result["inputs"]:
        assert result["best_constant"] >= result["chance_accuracy"] - 1e-12
    ((_, trace),) = traces(frame_of(contributions, labels).sample(frac=1, random_state=0))
    np.testing.assert_array_equal(trace.contributions, contributions)
    np.testing.assert_array_equal(trace.labels, labels)


@given(k=st.integers(2, 7), top=st.integers(1, 7), seed=st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_chance_is_what_random_rankings_score(k, top, seed):
    random = np.random.default_rng(seed)
    n = 4000
    wanted = np.broadcast_to(random.random(k) < 0.4, (n, k))
    gains = np.broadcast_to(random.integers(0, 30, k) + np.arange(k), (n, k))
    drawn = order(ranks(random.normal(size=(n, k))))
    chance = no_order(1, k)
    assert hit(drawn, wanted, top).mean() == pytest.approx(hit(chance, wanted[:1], top)[0], abs=0.05)
    assert ndcg(drawn, gains).mean() == pytest.approx(ndcg(chance, gains[:1])[0], abs=0.03)
    if np.ptp(gains[0]):
        assert np.mean(spearman(drawn, gains)) == pytest.approx(0, abs=0.08)


def test_random_contributions_score_chance_accuracy():
    random = np.random.default_rng(1)
    n, k = 20_000, 8
    labels = random.integers(0, 10, n)
    counts = {client: random.integers(0, 20, 10) for client in range(k)}
    row = score(frame_of(random.normal(size=(n, k)), labels), counts)
    assert row["localization_accuracy"] == pytest.approx(row["chance_accuracy"], abs=0.015)
    assert row["majority_accuracy"] == pytest.approx(row["majority_chance"], abs=0.015)
    assert row["chance_corrected"] == pytest.approx(0, abs=0.03)
    assert row["ndcg"] == pytest.approx(row["ndcg_chance"], abs=0.01)


def test_interval_by_hand():
    # mean 3, s = sqrt(2.5), t(4, 0.975) = 2.776445
    interval = mean_interval([1, 2, 3, 4, 5, np.nan])
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert interval.count == 5
    assert (interval.mean, interval.low, interval.high) == pytest.approx((3, 3 - half, 3 + half), abs=1e-5)
    single = mean_interval([0.5])
    assert single.mean == 0.5
    assert math.isnan(single.low)
    assert math.isnan(mean_interval([]).mean)


def test_intervals_over_seeds():
    frame = pd.DataFrame({"method": ["a", "a", "b"], "x": [1.0, 3.0, 5.0]})
    table = over_seeds(frame, ["method"], ["x"])
    assert table["method"].tolist() == ["a", "b"]
    assert table["mean"].tolist() == [2.0, 5.0]
    assert table["count"].tolist() == [2, 1]


def test_a_client_with_exactly_as_many_examples_as_make_a_holder_is_one():
    """The only holder of label 0 has 10, of label 1 nobody has more than 9."""
    frame = frame_of([[3, 1], [1, 3], [3, 1]], [0, 0, 1])
    row = score(frame, {0: [10, 9], 1: [9, 9]}, min_examples=10)
    assert row["no_holder"] == 1
    assert row["inputs"] == 2
    assert row["localization_accuracy"] == 0.5
    assert row["chance_accuracy"] == 0.5
    assert row["best_constant"] == 1.0
    assert score(frame, {0: [10, 9], 1: [9, 9]}, min_examples=9)["no_holder"] == 0
    assert score(frame, {0: [10, 9], 1: [9, 9]}, min_examples=11)["no_holder"] == 3


def test_columns_have_the_types_of_the_file_whatever_the_types_given():
    columns = (np.array([3, 4]), np.array([0, 1]), np.array([1, 1]))
    rows = {"noise": np.array([1.0, 2.0])}
    for kind in (np.int64, np.int32, np.int16):
        frame = tidy("m", "round", "logit", 1, *(column.astype(kind) for column in columns), [5, 7], [True, False],
                     np.ones((2, 2)), rows)  # fmt: skip
        whole = {name: str(frame[name].dtype) for name in ("round", "input", "label", "prediction")}
        assert whole == dict.fromkeys(whole, "int32")
        assert (str(frame["client"].dtype), str(frame["rank"].dtype)) == ("Int32", "Int32")
