"""Federations trained again without clients: which, to the same numbers as ordinary ones, each once, whoever asks."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from dataclasses import replace
from itertools import combinations
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from provfl_cli.config.retrain import Retrain
from provfl_cli.data.federated import ClientData
from provfl_cli.errors import InputError
from provfl_cli.evaluation.contributions import tidy
from provfl_cli.federation.events import RoundFinished
from provfl_cli.federation.key import training_key
from provfl_cli.federation.train import federated_rounds
from provfl_cli.fusion.krum import Krum
from provfl_cli.fusion.scaffold import Scaffold
from provfl_cli.retraining.designs import (
    HALVES,
    Retraining,
    every_subset,
    halves,
    leave_one_out,
    orders_of_removal,
    removal,
)
from provfl_cli.retraining.subset import subset, why_not
from provfl_cli.retraining.train import Whole, retrained, train_subset
from provfl_cli.run.retrained import removals
from provfl_cli.store.cache import open_entry
from provfl_cli.store.rounds import read_round

from .federations import CPU, make_config, make_data, make_model, train
from .retrainings import CLIENTS, all_subsets, make_asked, make_whole, outcomes, plain_model


@given(clients=st.integers(2, 14), count=st.integers(1, 40), seed=st.integers(0, 9))
def test_halves_are_different_even_and_the_same_however_many_there_are(clients: int, count: int, seed: int) -> None:
    ids = [3 * number + 1 for number in range(clients)]
    drawn = halves(ids, count, seed)
    assert len(drawn) == min(count, len(list(combinations(ids, clients // 2))))
    assert len(set(drawn)) == len(drawn)
    assert all(len(half) == clients // 2 and list(half) == sorted(half) and set(half) <= set(ids) for half in drawn)
    often = Counter(client for half in drawn for client in half)
    assert max(often.values()) - min(often[client] for client in ids) <= 4
    assert halves(ids, 200, seed)[: len(drawn)] == drawn


def test_halves_of_many_clients_differ_with_the_seed_and_are_no_mirror_images() -> None:
    drawn = halves(range(30), 60, 0)
    assert drawn != halves(range(30), 60, 1)
    together = [len({*a} & {*b}) for a, b in combinations(drawn, 2)]
    assert 6 < np.mean(together) < 8.5  # 7.5 at random
    assert min(together) > 0


def test_which_clients_the_other_designs_keep() -> None:
    assert leave_one_out([1, 4, 6]) == [(4, 6), (1, 6), (1, 4)]
    assert every_subset([1, 4]) == [(), (1,), (4,), (1, 4)]
    assert len(every_subset(range(10))) == 1024
    with pytest.raises(InputError, match="2,048 federations"):
        every_subset(range(11))
    with pytest.raises(InputError, match="2 clients or more"):
        halves([3], 5, 0)
    assert removal([1, 4, 6], [6, 1, 4], 2) == [(1, 4), (4,)]
    assert removal([1, 4, 6], [6, 1, 4], 9) == [(1, 4), (4,)]  # somebody is left
    orders = orders_of_removal([1, 4, 6], {1: 5, 4: 9, 6: 9}, seed=0)
    assert orders["largest"] == [4, 6, 1]
    assert sorted(orders["random 1"]) == [1, 4, 6]
    assert {*orders} == {"largest", "random 1", "random 2", "random 3"}


def test_top_clients_of_every_traced_round_are_removed() -> None:
    """Whom a round does not rank goes last, also after those that contribute less than nothing."""
    data, nothing = make_data(), np.zeros(1, dtype=np.int64)
    rounds = [
        tidy("provfl", "round", "logit", number, nothing, nothing, nothing, CLIENTS, used, np.array([scores]), {})
        for number, used, scores in (
            (1, np.array([True, False, True, True]), [-3.0, 0.0, -2.0, -1.0]),
            (2, np.ones(4, dtype=bool), [1.0, 4.0, 2.0, 3.0]),
        )
    ]
    plan = removals(Retrain(["removal"], top=3), 0, data, rounds)
    own = [{*CLIENTS} - {*retraining.clients} for retraining in plan if retraining.removes == "provfl"]
    assert own == [{6}, {4, 6}, {0, 4, 6}, {2}, {2, 6}, {2, 4, 6}]
    assert len(plan) == 6 + 4 * 3
    assert len(removals(Retrain(["removal"], top=3), 0, data, rounds[:1] * 2)) == 5 * 3, "each once"


def by_hand(clients: list[ClientData], model: nn.Module, rounds: int, epochs: int, rate: float) -> dict[str, Tensor]:
    """FedAvg in plain torch: clients that take all their examples at once, averaged by how many these are."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(rounds):
        returned = []
        for client in clients:
            model.load_state_dict(weights)
            optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
            for _ in range(epochs):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(client.inputs), client.labels).backward()
                optimizer.step()
            returned.append({name: value.clone() for name, value in model.state_dict().items()})
        total = sum(len(client.labels) for client in clients)
        if clients:
            weights = {
                name: sum(len(client.labels) / total * own[name] for client, own in zip(clients, returned, strict=True))
                for name in weights
            }
    return weights


def test_all_sixteen_subsets_of_four_clients_are_what_a_loop_of_its_own_trains(tmp_path: Path) -> None:
    whole = make_whole(tmp_path)
    made = outcomes(whole, all_subsets())
    assert len(made) == 16
    model = plain_model()
    asked = make_asked(whole.data)[0]
    for (_, kept, _), outcome in made.items():
        expected = by_hand([c for c in whole.data.clients if c.id in kept], plain_model(), 2, 2, 0.05)
        if kept:
            stored = read_round(tmp_path / "federations" / outcome.key / "rounds", 2)
            assert stored.clients == kept
            for name, value in stored.weights().items():
                torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)
        model.load_state_dict(expected)
        with torch.no_grad():
            odds = model(asked.inputs).double().softmax(1)
            right = model(whole.data.test.inputs).argmax(1) == whole.data.test.labels
        own = odds[torch.arange(20), torch.from_numpy(asked.classes)]
        np.testing.assert_allclose(outcome.answers[2].values, (own / (1 - own)).log(), atol=1e-4)
        assert np.array_equal(outcome.answers[2].classes, odds.argmax(1))
        assert outcome.accuracy == pytest.approx(right.double().mean().item())


@pytest.mark.parametrize(
    "changes",
    [
        {"clients_per_round": 2, "momentum": 0.0, "batch_size": 16},
        {"momentum": 0.0, "fusion": Scaffold(), "batch_size": 16},
        {"joins": {4: 2}, "leaves": {0: 1}, "batch_size": 16},
        {"share": "body", "batch_size": 16},
    ],
    ids=["some a round", "control variates", "joins and leaves", "private heads"],
)
def test_a_worker_trains_what_an_ordinary_run_of_these_clients_would(changes: dict[str, Any], tmp_path: Path) -> None:
    """The same key and the same bytes as on the engine's own workers, batch normalisation and dropout included."""
    whole = make_whole(tmp_path / "again", model=make_model(), **changes)
    kept = (2, 4, 6)
    ((_, outcome),) = outcomes(whole, [Retraining(HALVES, kept, 0)], workers=1).items()
    config, data = subset(whole.config, whole.data, kept, 0, 2)
    (stored,), _ = train(tmp_path / "ordinary", replace(config, engine=replace(config.engine, workers=2)), data=data)
    assert stored.folder.parent.parent.name == outcome.key
    again = read_round(tmp_path / "again" / "federations" / outcome.key / "rounds", 2)
    assert again.checksums == stored.checksums
    assert again.clients == stored.clients
    assert again.metrics.accuracy == stored.metrics.accuracy == outcome.accuracy


def test_only_the_rounds_that_are_asked_about_are_evaluated(tmp_path: Path) -> None:
    """And a run that shows all rounds trains those anew that were stored without."""
    whole, kept = make_whole(tmp_path), (2, 4, 6)
    ((_, outcome),) = outcomes(whole, [Retraining(HALVES, kept, 0)]).items()
    stored = read_round(tmp_path / "federations" / outcome.key / "rounds", 2)
    assert [np.isfinite(metrics.accuracy) for metrics in stored.history] == [False, True]
    config, data = subset(whole.config, whole.data, kept, 0, 2)
    (shown,), seen = train(tmp_path, config, data=data, model=plain_model())
    assert shown.folder == stored.folder
    assert sum(isinstance(event, RoundFinished) for event in seen) == 2
    assert all(np.isfinite([metrics.accuracy, metrics.loss]).all() for metrics in shown.history)
    assert shown.checksums == stored.checksums
    assert shown.metrics.accuracy == stored.metrics.accuracy
    ((_, again),) = outcomes(whole, [Retraining(HALVES, kept, 0)]).items()
    assert again.trained == 0, "what is there with more than is wanted will do"


def test_an_earlier_round_that_was_not_evaluated_is_trained_again(tmp_path: Path) -> None:
    whole, kept = make_whole(tmp_path), (2, 4, 6)
    config, data = subset(whole.config, whole.data, kept, 0, 2)
    two = replace(config, store=replace(config.store, keep="all"))

    def trained(number: int) -> tuple[float, int]:
        seen: list[Any] = []
        settings = replace(two, federation=replace(two.federation, rounds=number))
        with federated_rounds(
            settings, data, plain_model(), tmp_path, {number}, CPU, seen.append, workers=0, evaluated={number}
        ) as rounds:
            (stored,) = rounds
        return stored.metrics.accuracy, sum(isinstance(event, RoundFinished) for event in seen)

    last, both = trained(2)
    first, once = trained(1)
    assert (both, once) == (2, 1), "round 1 was there without its accuracy"
    assert np.isfinite([last, first]).all()
    assert trained(2) == (last, 0)


def test_all_clients_are_the_federation_itself(tmp_path: Path) -> None:
    whole = make_whole(tmp_path, clients_per_round=3, joins={2: 2})
    (stored,), _ = train(tmp_path, whole.config, data=whole.data, model=plain_model())
    ((_, outcome),) = outcomes(whole, [Retraining("all", CLIENTS, 0)]).items()
    assert (outcome.key, outcome.trained) == (stored.folder.parent.parent.name, 0)


def test_flowers_federations_are_trained_here_and_named_the_same() -> None:
    data, config = make_data(), make_config()
    flower = replace(config, engine=replace(config.engine, name="flower", on_failure="dropout"))
    keys = set()
    for whole in (config, flower):
        smaller, shares = subset(whole, data, (0, 4), 0, 2)
        assert smaller.engine.name == "local"
        keys.add(training_key(smaller, shares, plain_model(), CPU)[0])
    assert len(keys) == 1


def test_what_was_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, plan = make_whole(tmp_path), all_subsets()[5:13]
    with retrained(whole, make_asked(whole.data), plan, 2) as results:
        before = [next(results)[0] for _ in range(3)]
    there = {path.parent.parent.name for path in tmp_path.glob("federations/*/rounds/0002")}
    again = outcomes(whole, plan)
    assert all(again[training].trained == 0 for training in before)
    assert {outcome.key for outcome in again.values() if not outcome.trained} == there
    assert 3 <= len(there) < 8
    assert len(again) == 8
    assert all(list(path.iterdir()) == [path / "0002"] for path in tmp_path.glob("federations/*/rounds")), "the last"


def in_another_process(whole: Whole, pipe: Connection) -> None:
    made = outcomes(whole, all_subsets(), workers=1)
    pipe.send({training: (outcome.trained, outcome.answers[2].values) for training, outcome in made.items()})


def test_two_processes_that_are_asked_for_the_same_share_the_work(tmp_path: Path) -> None:
    whole = make_whole(tmp_path, rounds=2, local_epochs=10)
    context = multiprocessing.get_context("fork")
    pipes, processes = [], []
    for _ in range(2):
        ours, theirs = context.Pipe()
        process = context.Process(target=in_another_process, args=(whole, theirs))
        process.start()
        pipes.append(ours)
        processes.append(process)
    first, second = (pipe.recv() for pipe in pipes)
    for process in processes:
        process.join()
    assert first.keys() == second.keys()
    for training in first:
        trained = [said[training][0] for said in (first, second)]
        assert sorted(trained) == ([0, 2] if training[1] else [0, 0]), "once, by one of them"
        np.testing.assert_array_equal(first[training][1], second[training][1])
    assert all(sum(trained > 0 for trained, _ in said.values()) >= 3 for said in (first, second)), "both had work"


def test_what_another_trains_is_left_out_or_waited_for(tmp_path: Path) -> None:
    whole, training = make_whole(tmp_path), ("", (0, 2), 0)
    config, data = subset(whole.config, whole.data, (0, 2), 0, 2)
    key, _ = training_key(config, data, plain_model(), CPU)
    with (
        open_entry(tmp_path, key, {}, 20) as entry,
        entry.training(until=lambda: False, waiting=lambda: None),
    ):
        assert train_subset(whole, make_asked(whole.data), training, wait=False) is None
    outcome = train_subset(whole, make_asked(whole.data), training, wait=True)
    assert outcome is not None
    assert outcome.trained == 2


def test_a_second_training_seed_changes_training_and_not_the_data(tmp_path: Path) -> None:
    whole = make_whole(tmp_path, batch_size=16)
    whole = replace(whole, models={0: plain_model(), 1: make_plain(1)})
    made = outcomes(whole, [Retraining(HALVES, (0, 2), 0), Retraining(HALVES, (0, 2), 1)])
    first, second = made.values()
    assert first.key != second.key
    assert not np.allclose(first.answers[2].values, second.answers[2].values)


def make_plain(seed: int) -> nn.Module:
    model = plain_model()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
    return model


def test_what_cannot_be_trained_is_missing_and_says_why(tmp_path: Path) -> None:
    data = make_data()
    config = replace(make_config(), fusion=Krum(attackers=0))
    assert why_not(config, data, (0, 2), 2) != ""
    assert why_not(config, data, (0, 2, 4), 2) == ""
    assert why_not(config, data, (), 2) == ""
    assert "alone would be there" in why_not(make_config(leaves={0: 1}), data, (0, 2), 2)
    whole = make_whole(tmp_path, fusion=Krum(attackers=0))
    made = outcomes(whole, all_subsets())
    assert {len(kept) for (_, kept, _), outcome in made.items() if outcome.answers} == {0, 3, 4}
    assert all("krum" in outcome.reason for outcome in made.values() if not outcome.answers)


def test_a_federation_that_diverges_does_not_end_the_others(tmp_path: Path) -> None:
    data = make_data()
    wild = replace(data.clients[0], inputs=data.clients[0].inputs * 1e30)
    whole = make_whole(tmp_path, replace(data, clients=(wild, *data.clients[1:])))
    made = outcomes(whole, all_subsets())
    for (_, kept, _), outcome in made.items():
        assert bool(outcome.answers) == (0 not in kept)
        assert outcome.answers or "client 0 diverged" in outcome.reason


def test_without_workers_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = all_subsets()[3:6]
    forked = outcomes(make_whole(tmp_path / "forked"), plan)
    monkeypatch.setattr("provfl_cli.retraining.train.can_fork", lambda: False)
    here = outcomes(make_whole(tmp_path / "here"), plan)
    for training, outcome in here.items():
        np.testing.assert_array_equal(outcome.answers[2].values, forked[training].answers[2].values)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"designs": ["everything"]}, "retrain.designs=everything"),
        ({"designs": ["halves", "halves"]}, "twice"),
        ({"again": 61}, "retrain.again=61"),
        ({"subsets": 5}, "retrain.subsets=5: too few.* 6 or more"),
        ({"again": 5}, "retrain.again=5: too few.* 6 or more"),
        ({"designs": ["all"], "again": 6}, "halves that are trained again"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Retrain(**settings)


def test_settings_that_do_not_go_together_are_refused() -> None:
    config = make_config(federation=replace(make_config().federation, clients=4))
    retrain = replace(config.evaluation, counterfactual="retrain")
    with pytest.raises(InputError, match="counterfactual=fusion trains nothing"):
        replace(config, retrain=Retrain(["halves"]))
    with pytest.raises(InputError, match=r"retrain.top=4.*at most 3"):
        replace(config, evaluation=retrain, retrain=Retrain(["removal"], top=4))
    with pytest.raises(InputError, match="cosine is none that this run has"):
        replace(config, evaluation=retrain, retrain=Retrain(["removal"], methods=["cosine"]))
    with pytest.raises(InputError, match="clean_twin"):
        replace(config, evaluation=retrain, retrain=Retrain(["clean_twin"]))
    assert replace(config, evaluation=retrain).retrain.chosen == ("leave_one_out", "halves")
