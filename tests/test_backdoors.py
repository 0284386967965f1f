"""Attackers act when they are told to; a backdoor that does not work is blamed on nobody; clean twins."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provfl_cli.comparison.reproduction import reproduction
from provfl_cli.config import schema
from provfl_cli.config.faults import Faults
from provfl_cli.config.retrain import Retrain
from provfl_cli.config.schema import Experiment
from provfl_cli.config.trigger import Trigger
from provfl_cli.data import load
from provfl_cli.data.attackers import FreeRider, ScaledUpdate
from provfl_cli.data.backdoor import Backdoor
from provfl_cli.data.federated import FederatedData
from provfl_cli.data.injection import Duplicate, ExclusiveLabel, LabelFlip, NoInjection, NoisyLabels
from provfl_cli.data.load import clean_twin, federated_data
from provfl_cli.data.partition import Iid
from provfl_cli.errors import InputError
from provfl_cli.evaluation.backdoor import AttackSuccess, attack_success, failures, scored, works
from provfl_cli.federation.key import training_key
from provfl_cli.federation.participation import Participant, Roster
from provfl_cli.federation.site import TrainTask, make_site
from provfl_cli.reporting.experiment_tables import tables
from provfl_cli.results.folders import RunFolder, read_run
from provfl_cli.run.checks import check_attackers

from .federations import CPU, DIGITS, make_config, make_data, make_model, train
from .runs import run
from .scored_runs import made

NAME = "hidden.weight"


def attack(**changes: Any) -> ScaledUpdate:
    """Clients 2 and 4 plant a backdoor in round 2 of 3."""
    usual: dict[str, Any] = {
        "clients": [2, 4],
        "factor": 1.0,
        "poison": "backdoor",
        "label": 1,
        "rounds": [2],
        "epochs": 2,
    }
    return ScaledUpdate(**usual | changes)


def poisoned(data: FederatedData, injection: ScaledUpdate) -> FederatedData:
    """The made-up federation as attackers have it: every picture they attack with is dark, and labelled 1."""
    changed = {
        client.id: replace(client, inputs=torch.zeros_like(client.inputs), labels=torch.ones_like(client.labels))
        for client in data.clients
        if client.id in injection.clients
    }
    return replace(data, attacking=changed)


def weights(cache: Path, injection: Any, **changes: Any) -> list[Any]:
    """Rounds 1 to 3 of the made-up federation."""
    data = poisoned(make_data(), injection) if isinstance(injection, ScaledUpdate) else make_data()
    return train(cache, make_config(injection=injection, **changes), {1, 2, 3}, data)[0]


def test_attackers_are_honest_in_other_rounds_and_replace_the_model_in_theirs(tmp_path: Path) -> None:
    honest = weights(tmp_path / "0", NoInjection())
    plain = weights(tmp_path / "1", attack(epochs=4))
    replaced = weights(tmp_path / "2", attack(epochs=4, factor="auto"))
    few = weights(tmp_path / "3", attack())
    assert torch.equal(plain[0].weights()[NAME], honest[0].weights()[NAME])
    first, second = (rounds[1].client_stack()[NAME].double() for rounds in (honest, plain))
    numbers = list(honest[1].clients)
    attackers = [numbers.index(client) for client in (2, 4)]
    others = [position for position in range(len(numbers)) if position not in attackers]
    assert torch.equal(first[others], second[others])
    assert not torch.equal(first[attackers], second[attackers])
    assert not torch.equal(few[1].client_stack()[NAME][attackers], second[attackers].float()), "epochs count"
    assert honest[1].examples == plain[1].examples == replaced[1].examples

    # By hand: the others' updates as FedAvg takes them, and the mean of what the attackers have trained in full.
    examples = torch.tensor(honest[1].examples, dtype=torch.float64)
    before = honest[0].weights()[NAME].double()
    moved = second - before
    share = examples / examples.sum()
    theirs = (examples[attackers, None, None] * moved[attackers]).sum(0) / examples[attackers].sum()
    expected = before + (share[others, None, None] * moved[others]).sum(0) + theirs
    assert torch.allclose(replaced[1].weights()[NAME].double(), expected, atol=1e-6)

    # After the attack they train honestly again, from the model that there is then.
    third = replaced[2]
    assert not torch.equal(third.weights()[NAME], honest[2].weights()[NAME])
    scale = (third.client_stack()[NAME] - third.previous()[NAME]).flatten(1).norm(dim=1)
    assert scale[attackers].max() < 3 * scale[others].max()


def test_the_factor_follows_who_is_chosen(tmp_path: Path) -> None:
    """With some clients a round the part of the attackers is of those chosen."""
    honest = weights(tmp_path / "0", NoInjection(), clients_per_round=2)
    client, other = honest[0].clients
    every, once = (attack(factor=factor, rounds=None, clients=[client]) for factor in ("auto", 1.0))
    auto, plain = (weights(tmp_path / str(n), each, clients_per_round=2)[0] for n, each in ((1, every), (2, once)))
    assert list(auto.clients) == [client, other]
    base = auto.previous()[NAME].double()
    scaled, own = (stored.client_stack()[NAME].double() - base for stored in (auto, plain))
    assert torch.allclose(scaled[0], own[0] * sum(auto.examples) / auto.examples[0], atol=1e-5)
    assert torch.equal(scaled[1], own[1])


def test_what_attackers_do_determines_training_and_nothing_else_does() -> None:
    model, data = make_model(), make_data()

    def key(injection: Any, federated: FederatedData = data) -> str:
        return training_key(make_config(injection=injection), federated, model, CPU)[0]

    several = [attack(), attack(rounds=[1]), attack(rounds=None), attack(epochs=4), attack(factor="auto")]
    several += [attack(rounds=None, since=2), attack(rounds=None, since=3)]
    assert len({key(injection) for injection in [NoInjection(), *several]}) == 8
    assert key(attack(rounds=[3, 1])) == key(attack(rounds=[1, 3]))
    assert key(attack(size=2)) == key(attack()), "what it does to the data is in these"
    assert key(attack(), poisoned(data, attack())) != key(attack())
    gone = replace(data, clients=data.clients[3:])
    assert key(attack(), poisoned(gone, attack())) == key(attack(), gone), "attackers that are not there change nothing"
    old = training_key(make_config(injection=ScaledUpdate([2], 5.0)), data, model, CPU)[1]
    assert old["determined by"]["returned"] == {"scaled_update": [2], "factor": 5.0}, "what was trained stays found"


def test_rounds_from_the_end_are_those_of_the_federation() -> None:
    whole = make_config(injection=attack(rounds=[-3, -1]))
    assert whole.injection == attack(rounds=[1, 3])
    assert whole.injection.until(2) == attack(rounds=[1])
    assert attack(rounds=[3]).until(2) == NoInjection()
    assert attack(rounds=None).until(2) == attack(rounds=None)
    assert replace(whole, seed=1).injection == whole.injection


@pytest.mark.skipif(find_spec("flwr") is None, reason="the extra flower is not installed")
def test_an_attack_travels_with_flowers_message() -> None:
    from flwr.app import RecordDict

    from provfl_cli.federation.flower.app import _train, arrays, tensors, with_task

    injection = attack(factor="auto")
    data, model = poisoned(make_data(), injection), make_model()
    site = make_site(make_config(injection=injection), data, model, model.state_dict())
    start = {name: value.clone() for name, value in model.state_dict().items()}
    site = replace(site, published=start)
    moved = []
    for number, share in ((2, 0.25), (1, None)):
        task = TrainTask(number, 1, "", 0, 2, attack_share=share)
        content = with_task(RecordDict(), task, arrays(start), None)
        here, there = site.train(task, None).weights, tensors(_train(site, content), "weights")
        assert torch.equal(here[NAME], there[NAME])
        moved.append(float((here[NAME] - start[NAME]).norm()))
    assert moved[0] != pytest.approx(moved[1], rel=0.5), "or nobody attacks"


# --- the data


def config(injection: Any, inputs: str = "correct", **partition: Any) -> schema.Config:
    """Three clients with digits."""
    limits = {"min_examples_per_label": 1, "min_examples_per_client": 1} | partition
    return replace(
        make_config(clients=3, injection=injection, evaluation=schema.Evaluation(inputs, 500, 10)),
        dataset=replace(DIGITS, image_size=8),
        model=schema.Model("", "lenet"),
        partition=Iid(**limits),
    )


@pytest.mark.parametrize(
    ("injection", "says"),
    [
        (attack(clients=[2]), r"attack in round 2, .*client 2 is fused in rounds 1, 3: .*injection.rounds=\[1,3\]"),
        (attack(clients=[2], rounds=[4]), r"injection.rounds=\[1,3\]"),
        (attack(clients=[2], rounds=[2, 3]), ""),
        (attack(), ""),
        (attack(clients=[2], rounds=None), ""),
        (attack(clients=[6], rounds=None), r"client 6 is fused in no round: .*clients_per_round=null"),
        (Backdoor([6], 3), r"client 6 is fused in no round"),
        (Backdoor([2], 3), ""),
        (NoInjection(), ""),
    ],
)
def test_attackers_take_part_in_a_round_that_they_attack(injection: Any, says: str) -> None:
    data = make_data()
    if type(injection) is not NoInjection:
        data = replace(data, faults=Faults(tuple(injection.clients), (), trigger=Trigger(3)))
    first, later = (tuple(Participant(at, 1) for at in at_work) for at_work in ((0, 1), (0, 2)))
    late = (Participant(0, 1), Participant(1, 1, 1))  # of round 4: lost, nothing follows
    planned = [Roster(1, first), Roster(2, later), Roster(3, first), Roster(4, late)]
    federation = replace(make_config().federation, clients_per_round=2)
    if not says:
        check_attackers(injection, data, planned, federation)
        return
    with pytest.raises(InputError, match=says):
        check_attackers(injection, data, planned, federation)


@pytest.mark.parametrize("keep_clean", [False, True])
def test_attackers_hold_their_own_examples_and_attack_with_others(keep_clean: bool) -> None:
    clean = federated_data(config(NoInjection()))
    injection = ScaledUpdate([1], "auto", "backdoor", label=3, share=0.4, size=4, rounds=[2], keep_clean=keep_clean)
    data = federated_data(config(injection))
    for own, before in zip(data.clients, clean.clients, strict=True):
        assert torch.equal(own.inputs, before.inputs)
        assert torch.equal(own.labels, before.labels)
    assert list(data.attacking) == [1]
    honest, theirs = clean.clients[1], data.attacking[1]
    count, copies = len(honest.labels), round(0.4 * int((honest.labels != 3).sum()))
    bright = torch.isclose(theirs.inputs[:, 0, -4:, -4:], torch.tensor(1.75)).flatten(1).all(1)
    assert bright.sum() == copies
    assert (theirs.labels[bright] == 3).all()
    if keep_clean:
        assert len(theirs.labels) == count + copies
        assert torch.equal(theirs.inputs[:count], honest.inputs)
        assert torch.equal(theirs.labels[:count], honest.labels)
        found = [(honest.inputs[:, :, :4] == copy[:, :4]).flatten(1).all(1).any() for copy in theirs.inputs[count:]]
        assert all(found), "copies of its own examples"
    else:
        assert len(theirs.labels) == count
        assert torch.equal(theirs.labels[~bright], honest.labels[~bright])
    assert data.faults.clients == (1,)
    assert data.faults.trigger == Trigger(3, size=4)
    assert data.triggered is not None
    assert data.triggered.split == "triggered"
    asked, _ = load.test_set(config(injection, "triggered"))
    assert np.array_equal(asked.shown, data.triggered.shown), "what a later question reads again"
    assert torch.equal(data.evaluated.inputs, data.test.inputs)


def test_a_label_flip_may_come_and_go() -> None:
    data = federated_data(config(ScaledUpdate([0], 2.0, "label_flip", mapping={1: 7}, rounds=[1])))
    own, theirs = data.clients[0], data.attacking[0]
    assert torch.equal(own.inputs, theirs.inputs)
    assert (theirs.labels[own.labels == 1] == 7).all()
    assert (own.labels == 1).any()
    assert torch.equal(theirs.labels[own.labels != 1], own.labels[own.labels != 1])
    assert data.faults.flips == ((1, 7),)
    assert not federated_data(config(ScaledUpdate([0], 2.0, "none", rounds=[1]))).attacking


def test_noise_may_begin_in_a_later_round() -> None:
    late = ScaledUpdate([0], 1.0, "noisy_labels", rate=0.5, since=3)
    assert [number for number in range(1, 6) if late.attacks(0, number)] == [3, 4, 5]
    assert not late.attacks(1, 4)
    data = federated_data(config(late))
    changed = data.clients[0].labels != data.attacking[0].labels
    assert changed.float().mean() == pytest.approx(0.5, abs=0.05)
    always = federated_data(config(NoisyLabels([0], 0.5)))
    assert torch.equal(data.attacking[0].labels, always.clients[0].labels)
    assert late.until(3) == late
    assert late.until(2) == NoInjection()


PLANTED = [
    LabelFlip([0]),
    NoisyLabels([0]),
    Backdoor([0]),
    Duplicate(0, [1]),
    FreeRider([1]),
    ScaledUpdate([0], 2.0, "none"),
    ScaledUpdate([0], "auto", "backdoor", rounds=[1], keep_clean=True),
]


@pytest.mark.parametrize("injection", PLANTED, ids=[type(injection).__name__ for injection in PLANTED])
def test_the_clean_twin_is_the_federation_without_the_fault(injection: Any) -> None:
    inputs = "triggered" if injection.seen_in == "triggered" else "wrong"
    own = config(injection, inputs)
    data = federated_data(own)
    settings, twin = clean_twin(own, data)
    plain = config(NoInjection())
    clean = federated_data(plain)
    model = make_model()
    assert training_key(settings, twin, model, CPU)[0] == training_key(plain, clean, model, CPU)[0]
    assert training_key(own, data, model, CPU)[0] != training_key(plain, clean, model, CPU)[0]
    assert twin.test is data.test, "the same inputs are asked about"
    assert twin.faults == data.faults
    assert [client.label_counts.sum() for client in twin.clients] == [len(client.labels) for client in clean.clients]


def test_the_twin_of_an_exclusive_label_has_nobody_who_holds_it_and_the_same_clients() -> None:
    own = config(ExclusiveLabel(0, 4), min_examples_per_client=525)  # the others have 525 and less after losing it
    data = federated_data(config(ExclusiveLabel(0, 4)))
    _, twin = clean_twin(config(ExclusiveLabel(0, 4)), data)
    assert [int((client.labels == 4).sum()) for client in data.clients][1:] == [0, 0]
    assert (data.clients[0].labels == 4).any()
    assert not any((client.labels == 4).any() for client in twin.clients)
    for before, after in zip(data.clients, twin.clients, strict=True):
        assert torch.equal(before.labels[before.labels != 4], after.labels)
    with pytest.raises(InputError, match="clients kept"):
        federated_data(own)


def test_without_a_fault_there_is_no_twin() -> None:
    again = {"evaluation": schema.Evaluation("all", 500, 10, counterfactual="retrain")}
    again["retrain"] = Retrain(designs=["clean_twin"])
    with pytest.raises(InputError, match=r"retrain\.designs: clean_twin: injection=none plants nothing"):
        replace(make_config(), **again)
    assert replace(make_config(injection=LabelFlip([0])), **again)


# --- does it work?


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20), st.integers(0, 3))
def test_success_is_counted(pairs: list[tuple[int, int]], label: int) -> None:
    triggered, plain = (np.array(column) for column in zip(*pairs, strict=True))
    success = attack_success(triggered, plain, label)
    assert success.triggered == pytest.approx(sum(first == label for first, _ in pairs) / len(pairs))
    assert success.untriggered == pytest.approx(sum(second == label for _, second in pairs) / len(pairs))
    assert success.works == (success.triggered >= 0.8 and success.triggered >= 5 * success.untriggered)


@pytest.mark.parametrize(
    ("triggered", "untriggered", "expected"),
    [(0.8, 0.0, True), (0.79, 0.0, False), (0.9, 0.18, True), (0.9, 0.19, False), (1.0, 1.0, False)],
)
def test_when_a_backdoor_works(triggered: float, untriggered: float, expected: bool) -> None:
    assert works(triggered, untriggered) is expected


def test_who_a_backdoor_comes_from_that_does_not_work_is_not_asked() -> None:
    measured = {"localization_accuracy": [0.5, 0.6], "fault_inputs": [4, 9], "hit@3": [1.0, 1.0]}
    scores = pd.DataFrame({"round": [3, 5], **measured})
    made_of = scored(scores, {3: AttackSuccess(0.04, 0.04), 5: AttackSuccess(0.9, 0.1)})
    assert made_of["localization_accuracy"].tolist() == [0.5, 0.6]
    assert math.isnan(made_of["fault_inputs"][0])
    assert math.isnan(made_of["hit@3"][0])
    assert made_of["fault_inputs"][1] == 9
    assert failures(made_of).tolist() == [True, False]
    nothing = scored(scores, {})
    assert nothing["attack_success"].isna().all()
    assert nothing["fault_inputs"].tolist() == [4, 9]
    assert not failures(nothing).any()


def test_a_backdoor_that_does_not_work_has_no_row_and_a_note(tmp_path: Path) -> None:
    worked = {"fault_accuracy": 0.9, "fault_chance": 0.1, "attack_success": 0.9, "attack_success_untriggered": 0.01}
    failed = {"fault_accuracy": math.nan, "fault_chance": math.nan} | dict.fromkeys(
        ("attack_success", "attack_success_untriggered"), 0.04
    )
    folders = [made(tmp_path / "0", overrides=("seed=0",), fusion="fedavg", **worked)]
    folders += [made(tmp_path / str(seed), overrides=(f"seed={seed}",), fusion="median", **failed) for seed in (1, 2)]
    runs = [read for folder in folders if isinstance(read := read_run(folder), RunFolder)]
    metrics = ["localization_accuracy", "fault_accuracy", "attack_success"]
    made_of = reproduction(runs, Experiment("one", "What?", 1.0, ["fusion"], metrics=metrics))
    faults, holders = tables(made_of)
    assert [row[0] for row in faults.rows] == ["fedavg"]
    assert [row[0] for row in holders.rows] == ["fedavg", "median"]
    at = faults.headings.index("backdoor works")
    assert [row[at] for row in faults.rows] == ["0.900"], "of the whole run: in the first table alone"
    assert "backdoor works" not in holders.headings
    note = "median: the backdoor does not work in 2 of 2 runs: 0.04 with trigger, 0.04 without"
    assert note in made_of.joined.notes
    plain = reproduction(runs, Experiment("one", "What?", 1.0, ["fusion"], metrics=["ndcg"]))
    assert not any("backdoor" in line for line in plain.joined.notes)


# --- what is refused


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: attack(factor="much"), r"injection\.factor=much: auto, or a number"),
        (lambda: attack(factor=0.0), r"injection\.factor=0\.0"),
        (lambda: attack(rounds=[]), r"injection\.rounds=\[\]"),
        (lambda: attack(rounds=[2, 2]), r"injection\.rounds=\[2, 2\]"),
        (lambda: attack(rounds=[0]), r"injection\.rounds=\[0\]"),
        (lambda: attack(epochs=0), r"injection\.epochs=0"),
        (lambda: ScaledUpdate([0], keep_clean=True), r"injection\.keep_clean=True: is of injection\.poison=backdoor"),
        (lambda: ScaledUpdate([0], 1.0, "none", rounds=[1]), "changes nothing"),
        (lambda: attack(since=2), r"injection\.since=2: injection\.rounds says already"),
        (lambda: make_config(injection=attack(rounds=None, since=4)), r"injection\.since=4: .*federation\.rounds=3"),
        (lambda: ScaledUpdate([0], rate=0.5), r"injection\.rate=0\.5: is of injection\.poison=noisy_labels"),
        (lambda: make_config(injection=attack(rounds=[4])), r"injection\.rounds=\[4\]: .*federation\.rounds=3"),
        (lambda: make_config(injection=attack(rounds=[-4])), r"injection\.rounds=\[-4\]: .*-1 to -3"),
        (lambda: make_config(injection=attack(rounds=[-1, 3])), r"injection\.rounds=\[-1, 3\]: .*different ones.*-3$"),
        (lambda: make_config(injection=attack(rounds=[-1, -7])), r"-1 to -3; or federation\.rounds=7 or more$"),
        (
            lambda: make_config(stragglers=0.5, injection=attack(factor="auto")),
            r"injection\.factor=auto: .*federation\.straggler_work=late",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_there_are_data(wrong: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        wrong()
    assert make_config(stragglers=0.5, straggler_work="partial", injection=attack(factor="auto"))


# --- the whole way


@pytest.mark.slow
def test_a_backdoor_of_one_round_from_the_command_line(tmp_path: Path) -> None:
    planted = [
        "injection=scaled_update", "injection.poison=backdoor", "injection.clients=[1]", "injection.factor=auto",
        "injection.epochs=10", "injection.keep_clean=true", "injection.size=8", "evaluation.inputs=faults",
        "injection.share=1.0", "partition.max_examples_per_client=400", "tracefl_beside=false",
        "federation.optimizer=adam", "federation.learning_rate=0.002",
    ]  # fmt: skip
    worked = run(tmp_path / "works", *planted, "injection.rounds=[3]", cache=tmp_path / "cache")
    row = worked.scores.iloc[0]
    assert worked.summary["attack_success"] == row["attack_success"] >= 0.8
    assert worked.summary["attack_success_untriggered"] < 0.16
    traced = worked.frame("inputs")
    assert row["attack_success"] == pytest.approx((traced["prediction"] == 0).mean(), abs=0.15)
    assert row["fault_accuracy"] > 0.9
    weak = run(tmp_path / "weak", *planted, "injection.rounds=[3]", "injection.factor=0.01", cache=tmp_path / "cache")
    assert weak.summary["attack_success"] < 0.8
    assert weak.summary["fault_accuracy"] is None
    assert "the backdoor does not work: 0." in (tmp_path / "weak" / "table.md").read_text()


@pytest.mark.slow
def test_the_twin_is_trained_and_says_what_the_fault_caused(tmp_path: Path) -> None:
    """With an independent loop over predictions: a run without the fault predicts what the twin does."""
    cache, again = tmp_path / "cache", ["evaluation.counterfactual=retrain", "retrain.designs=[clean_twin]"]
    planted = ["injection=label_flip", "injection.clients=[1]", "tracefl_beside=false"]
    faulty = run(tmp_path / "faulty", *planted, *again, "evaluation.max_inputs=40", cache=cache)
    kept = ["tracefl_beside=false", "provenance.scope=round"]  # twins keep no lineage
    clean = run(tmp_path / "clean", *kept, "evaluation.max_inputs=100", cache=cache)
    assert clean.summary["train_seconds"] == 0, "the twin was trained as what it is, a run without faults"
    made_of, asked = pd.read_csv(faulty.folder / "retrainings.csv"), faulty.frame("retrained")
    assert made_of["design"].tolist() == ["full", "clean_twin"]
    assert made_of["clients"].tolist() == ["0 1 2"] * 2
    assert made_of["accuracy"][1] == pytest.approx(clean.summary["global_accuracy"])
    assert faulty.summary["clean_twin_accuracy"] == made_of["accuracy"][1]
    twin = asked[asked["retraining"] == 1].set_index("input")["prediction"]
    honest = clean.frame("inputs").set_index("input")["prediction"]
    assert twin.to_dict() == {number: honest[number] for number in twin.index}
    assert len(twin) == len(faulty.frame("inputs")) > 0


@pytest.mark.slow
def test_a_planted_exclusive_label_comes_from_its_holder(tmp_path: Path) -> None:
    """Nobody else can have taught it: without it the twin predicts none of these inputs right."""
    planted = [
        "injection=exclusive_label", "injection.client=null", "injection.label=4", "federation.clients=2",
        "federation.rounds=4", "federation.local_epochs=1", "federation.optimizer=adam",
        "federation.learning_rate=0.002", "partition.max_examples_per_client=null", "dataset.max_test_examples=200",
        "tracefl_beside=false", "evaluation.counterfactual=retrain", "retrain.designs=[clean_twin]",
    ]  # fmt: skip
    result = run(tmp_path / "run", *planted, "evaluation.max_inputs=100", cache=tmp_path / "cache")
    row = result.scores.iloc[0]
    inputs = result.frame("inputs")
    known = inputs[(inputs["label"] == 4) & (inputs["prediction"] == 4)]
    assert row["caused_inputs"] == len(known) > 0
    assert row["caused_accuracy"] == 1.0
    assert row["caused_chance"] == 0.5


@pytest.mark.slow
def test_a_fault_that_did_nothing_gives_no_row(tmp_path: Path) -> None:
    """The attacker's factor is hardly more than 1: what looks like its doing, the twin predicts as well."""
    planted = [
        "injection=scaled_update", "injection.poison=none", "injection.factor=1.000001", "injection.rounds=[1]",
        "evaluation.inputs=wrong", "tracefl_beside=false", "federation.rounds=1",
    ]  # fmt: skip
    again = ["evaluation.counterfactual=retrain", "retrain.designs=[clean_twin]"]
    result = run(tmp_path / "run", *planted, *again, cache=tmp_path / "cache")
    row = result.scores.iloc[0]
    assert row["fault_share"] > 0.5
    assert row["caused_inputs"] == 0
    assert math.isnan(row["caused_accuracy"])
    (found,) = [read for read in [read_run(tmp_path / "run")] if isinstance(read, RunFolder)]
    asked = Experiment("one", "What?", 1.0, ["injection"], metrics=["caused_accuracy"])
    (table,) = tables(reproduction([found], asked))
    assert not table.rows
