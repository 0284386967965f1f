"""Planted faults change what the right clients train on, and nothing else."""

import numpy as np
import pytest

from provfl_cli.config.schema import Federation
from provfl_cli.data.injection import ExclusiveLabel, LabelFlip, NoInjection
from provfl_cli.data.partition import Share
from provfl_cli.errors import InputError


def shares() -> list[Share]:
    """Clients 0, 1 and 3 (2 was dropped) with labels out of four."""
    rows = {0: [0, 1, 2, 2], 1: [1, 1, 2], 3: [0, 3]}
    return [Share(client, np.arange(len(x)) + 10 * client, np.array(x)) for client, x in rows.items()]


def labels_of(changed: tuple[Share, ...]) -> dict[int, list[int]]:
    return {share.client: share.labels.tolist() for share in changed}


def federation(clients: int) -> Federation:
    return Federation(clients, None, 1, 1, 32, "sgd", 0.01, 0.9, 0.0)


def test_nothing_planted_changes_nothing():
    changed, faults = NoInjection().apply(shares(), 4)
    assert labels_of(changed) == {0: [0, 1, 2, 2], 1: [1, 1, 2], 3: [0, 3]}
    assert faults.clients == faults.flips == ()


def test_all_to_zero_reaches_the_faulty_clients_alone_and_lists_what_they_held():
    changed, faults = LabelFlip([0, 3]).apply(shares(), 4)
    assert labels_of(changed) == {0: [0, 0, 0, 0], 1: [1, 1, 2], 3: [0, 0]}
    assert faults.clients == (0, 3)
    assert faults.flips == ((1, 0), (2, 0), (3, 0))


def test_a_mapping_applies_at_once_so_that_it_can_swap():
    given = shares()
    changed, faults = LabelFlip([0], {1: 2, 2: 1, 3: 0}).apply(given, 4)
    assert labels_of(changed)[0] == [0, 2, 1, 1]
    assert faults.flips == ((1, 2), (2, 1)), "client 0 holds no 3"
    assert given[0].labels.tolist() == [0, 1, 2, 2], "the caller's labels stay"


def test_an_exclusive_label_is_left_with_one_holder_and_examples_go_with_their_labels():
    changed, faults = ExclusiveLabel(client=0, label=2).apply(shares(), 4)
    assert labels_of(changed) == {0: [0, 1, 2, 2], 1: [1, 1], 3: [0, 3]}
    assert changed[1].indices.tolist() == [10, 11]
    assert faults.clients == ()


@pytest.mark.parametrize(
    ("injection", "says"),
    [
        (LabelFlip([2]), "client 2 was dropped"),
        (LabelFlip([0], {1: 4}), "no label 4, labels are numbered 0 to 3"),
        (LabelFlip([1], {3: 0}), "hold none of these labels"),
        (ExclusiveLabel(client=2, label=0), "client 2 was dropped"),
        (ExclusiveLabel(client=0, label=9), "no label 9"),
        (ExclusiveLabel(client=1, label=3), r"choose one of the clients \[3\]"),
    ],
)
def test_what_does_not_fit_the_clients_is_refused(injection, says):
    with pytest.raises(InputError, match=says):
        injection.apply(shares(), 4)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: LabelFlip([]),
        lambda: LabelFlip("0"),
        lambda: LabelFlip([0.5]),
        lambda: LabelFlip([-1]),
        lambda: LabelFlip([0], "all_to_one"),
        lambda: LabelFlip([0], {1: 1}),
        lambda: LabelFlip([0], {"a": 1}),
        lambda: ExclusiveLabel(client=-1),
        lambda: ExclusiveLabel(label=True),
        lambda: LabelFlip([0, 10]).check(federation(10)),
        lambda: ExclusiveLabel(client=10).check(federation(10)),
    ],
)
def test_wrong_settings_are_refused_before_there_are_data(wrong):
    with pytest.raises(InputError, match=r"^injection\."):
        wrong()
