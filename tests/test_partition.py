"""Partitions: every example to at most one client, limits kept, and every failure an answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provfl_cli.data.partition import (
    Dirichlet,
    Iid,
    Pathological,
    Shard,
    Share,
    deal,
    drop_small,
    limit,
    require_enough,
)
from provfl_cli.errors import InputError

PARTITIONS = [Dirichlet(), Dirichlet(alpha=0.05, self_balancing=False), Pathological(), Shard(), Iid()]


def some_labels(count: int = 600, classes: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, classes, count)


def positions(shares: tuple[Share, ...]) -> np.ndarray:
    return np.concatenate([share.indices for share in shares])


@pytest.mark.parametrize("partition", PARTITIONS, ids=lambda partition: type(partition).__name__)
def test_a_seed_gives_the_same_shares_and_another_seed_others(partition):
    labels = some_labels()
    first, again, other = (deal(partition, labels, 6, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a.indices, b.indices) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(np.sort(a.indices), np.sort(b.indices)) for a, b in zip(first, other, strict=True))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    partition=st.one_of(
        st.builds(Dirichlet, alpha=st.floats(0.001, 100), self_balancing=st.booleans()),
        st.builds(Pathological, classes_per_client=st.integers(1, 3)),
        st.builds(Shard, shards_per_client=st.integers(1, 4)),
        st.just(Iid()),
    ),
    labels=st.lists(st.integers(0, 4), min_size=60, max_size=200),
    clients=st.integers(2, 10),
    seed=st.integers(0, 100),
)
def test_no_example_goes_to_two_clients_and_labels_follow_their_example(partition, labels, clients, seed):
    labels = np.asarray(labels)
    try:
        shares = deal(partition, labels, clients, seed)
    except InputError:
        return
    assert [share.client for share in shares] == list(range(clients))
    taken = positions(shares)
    assert len(np.unique(taken)) == len(taken)
    if isinstance(partition, Dirichlet | Iid):
        assert len(taken) == len(labels)
    for share in shares:
        assert np.array_equal(share.labels, labels[share.indices])


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(0, 3), max_size=60), min_size=1, max_size=6),
    cap=st.none() | st.integers(8, 60),
    per_label=st.integers(1, 8),
    per_client=st.integers(1, 8),
)
def test_kept_clients_satisfy_every_limit_and_no_client_is_lost(sizes, cap, per_label, per_client):
    shares = [Share(client, np.arange(len(x)), np.asarray(x, dtype=np.int64)) for client, x in enumerate(sizes)]
    partition = Iid(cap, per_label, per_client)
    limited = limit(shares, partition)
    kept, dropped = drop_small(limited, partition)
    assert sorted([share.client for share in kept] + [client for client, _ in dropped]) == list(range(len(sizes)))
    assert all(examples < per_client for _, examples in dropped)
    for share in kept:
        counts = np.bincount(share.labels)
        assert per_client <= len(share.labels) <= (cap or np.inf)
        assert counts[counts > 0].min() >= per_label
        assert np.array_equal(share.labels, np.asarray(sizes[share.client])[share.indices])


def test_the_cap_comes_before_the_minimum_of_a_label():
    labels = np.array([0] * 20 + [1] * 20)
    limited = limit([Share(0, np.arange(40), labels)], Iid(25, 10, 10))
    assert set(limited[0].labels) == {0}, "5 examples of label 1 are left by the cap, fewer than 10"


def test_pathological_assigns_classes_in_turn():
    shares = deal(Pathological(), some_labels(), 5, seed=7)
    assert [sorted(set(share.labels)) for share in shares] == [[0, 1], [1, 2], [2, 3], [3, 4], [0, 4]]


def test_iid_is_shuffled_although_the_source_is_sorted():
    for share in deal(Iid(), np.repeat(np.arange(5), 100), 5, seed=0):
        assert len(set(share.labels)) == 5


def test_a_smaller_alpha_concentrates_labels():
    def labels_held(alpha: float) -> float:
        shares = limit(deal(Dirichlet(alpha=alpha), some_labels(2000), 10, 0), Dirichlet())
        return float(np.mean([len(set(share.labels)) for share in shares]))

    assert labels_held(0.05) + 1 < labels_held(10.0)


@pytest.mark.parametrize(
    ("partition", "clients", "says"),
    [
        (Iid(), 601, "federation.clients=601: more than the 600"),
        (Dirichlet(min_partition_size=200), 10, "at most 60"),
        (Dirichlet(min_partition_size=59, alpha=0.1), 10, "lower partition.min_partition_size=59"),
        (Dirichlet(alpha=1e-300), 10, "raise partition.alpha"),
        (Pathological(classes_per_client=6), 3, "5 classes"),
        (Pathological(classes_per_client=5), 300, "lower federation.clients=300"),
        (Shard(shards_per_client=100), 10, "would need 1,000 examples"),
    ],
)
def test_what_the_data_do_not_allow_is_answered_in_one_line(partition, clients, says):
    with pytest.raises(InputError) as caught:
        deal(partition, some_labels(), clients, seed=0)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Dirichlet(alpha=0),
        lambda: Dirichlet(alpha=float("nan")),
        lambda: Dirichlet(min_partition_size=-1),
        lambda: Pathological(classes_per_client=0),
        lambda: Shard(shards_per_client=0),
        lambda: Iid(max_examples_per_client=0),
        lambda: Iid(max_examples_per_client=20, min_examples_per_client=32),
        lambda: Iid(min_examples_per_label=0),
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=r"^partition\."):
        wrong()


def test_too_few_clients_left_says_how_many_and_what_to_change():
    kept = [Share(0, np.arange(40), np.zeros(40, dtype=np.int64))]
    with pytest.raises(InputError, match=r"only 1 of 3 clients .* largest dropped has 20.* raise partition\.alpha"):
        require_enough(kept, [(1, 20), (2, 3)], Dirichlet(), None)
    with pytest.raises(InputError, match=r"only 2 of 3 clients .* at most 2"):
        require_enough(kept * 2, [(2, 3)], Iid(), 3)
    require_enough(kept * 2, [(2, 3)], Iid(), 2)
