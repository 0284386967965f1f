"""Which predictions are traced."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provfl_cli.evaluation.selection import select_inputs


def select(predictions, labels, counts, which="correct", max_inputs=100, seed=0, min_examples=10):
    held = {k: np.asarray(row) for k, row in enumerate(counts)}
    return select_inputs(np.asarray(predictions), np.asarray(labels), held, min_examples, which, max_inputs, seed)


def test_kinds_and_no_holder():
    # label 2 has no holder (9 examples at most); correct: 0, 2, 4; wrong: 1, 3
    labels, predictions = [0, 0, 1, 1, 2], [0, 1, 1, 0, 2]
    counts = [[10, 0, 9], [0, 50, 9]]
    for which, inputs, no_holder in (("correct", [0, 2], 1), ("wrong", [1, 3], 0), ("all", [0, 1, 2, 3], 1)):
        selection = select(predictions, labels, counts, which)
        assert selection.inputs.tolist() == inputs
        assert selection.no_holder == no_holder


def test_turns_go_round_labels():
    # 100 of label 0, 3 of label 1, 40 of label 2: 23 inputs are 10 + 3 + 10
    labels = np.repeat([0, 1, 2], [100, 3, 40])
    chosen = labels[select(labels, labels, [[99, 99, 99]], max_inputs=23).inputs]
    assert np.bincount(chosen).tolist() == [10, 3, 10]


def test_nothing_to_choose():
    selection = select([0, 1], [0, 1], [[99, 99]], which="wrong")
    assert selection.inputs.tolist() == []
    assert selection.no_holder == 0


def test_unknown_kind():
    with pytest.raises(KeyError):
        select([0], [0], [[99]], which="right")


@pytest.mark.slow
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    seed=st.integers(0, 2**31 - 1),
    few=st.integers(1, 30),
    more=st.integers(0, 30),
)
@settings(max_examples=25, deadline=None)
def test_balanced_seeded_and_nested(labels, seed, few, more):
    labels = np.array(labels)
    counts = [[99] * 5]
    small = select(labels, labels, counts, max_inputs=few, seed=seed).inputs
    large = select(labels, labels, counts, max_inputs=few + more, seed=seed).inputs
    assert len(small) == min(few, len(labels))
    assert (np.diff(small) > 0).all()
    assert set(small) <= set(large)
    np.testing.assert_array_equal(small, select(labels, labels, counts, max_inputs=few, seed=seed).inputs)
    taken, there = np.bincount(labels[small], minlength=5), np.bincount(labels, minlength=5)
    for label in range(5):  # a label is behind another by more than one turn only when it has no more to give
        assert taken[label] == there[label] or taken[label] >= taken.max() - 1


def test_the_seed_matters():
    labels = np.zeros(1000, dtype=int)
    first, second = (select(labels, labels, [[99]], max_inputs=10, seed=seed).inputs.tolist() for seed in (0, 1))
    assert first != second
