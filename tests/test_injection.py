"""Planted faults change what the right clients train on or return, and nothing else; and who is to blame is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from provfl_cli.config import schema
from provfl_cli.config.compose import compose_jobs
from provfl_cli.config.schema import Federation
from provfl_cli.config.trigger import Trigger
from provfl_cli.data.attackers import FreeRider, ScaledUpdate
from provfl_cli.data.backdoor import Backdoor
from provfl_cli.data.federated import Faults
from provfl_cli.data.injection import Duplicate, ExclusiveLabel, LabelFlip, NoInjection, NoisyLabels
from provfl_cli.data.load import federated_data
from provfl_cli.data.partition import Iid, Share
from provfl_cli.errors import InputError, RunError
from provfl_cli.federation.key import training_key
from provfl_cli.fusion.scaffold import Scaffold
from provfl_cli.fusion.submission import Submission

from . import text_sets as texts
from .federations import DIGITS, make_config, make_data, make_model, train
from .runs import Result, run

SMALL_DIGITS = replace(DIGITS, image_size=8)
TRIGGERED, FAULTS = (schema.Evaluation(which, 500, 10) for which in ("triggered", "faults"))


def shares() -> list[Share]:
    """Clients 0, 1 and 3 (2 was dropped) with labels out of four."""
    rows = {0: [0, 1, 2, 2], 1: [1, 1, 2], 3: [0, 3]}
    return [Share(client, np.arange(len(x)) + 10 * client, np.array(x)) for client, x in rows.items()]


def labels_of(changed: tuple[Share, ...]) -> dict[int, list[int]]:
    return {share.client: share.labels.tolist() for share in changed}


def federation(clients: int) -> Federation:
    return Federation(clients, None, 1, 1, 32, "sgd", 0.01, 0.9, 0.0)


def test_nothing_planted_changes_nothing():
    changed, faults = NoInjection().apply(shares(), 4, 0)
    assert labels_of(changed) == {0: [0, 1, 2, 2], 1: [1, 1, 2], 3: [0, 3]}
    assert faults.clients == faults.flips == ()


def test_all_to_zero_reaches_the_faulty_clients_alone_and_lists_what_they_held():
    changed, faults = LabelFlip([0, 3]).apply(shares(), 4, 0)
    assert labels_of(changed) == {0: [0, 0, 0, 0], 1: [1, 1, 2], 3: [0, 0]}
    assert faults.clients == (0, 3)
    assert faults.flips == ((1, 0), (2, 0), (3, 0))


def test_a_mapping_applies_at_once_so_that_it_can_swap():
    original = shares()
    changed, faults = LabelFlip([0], {1: 2, 2: 1, 3: 0}).apply(original, 4, 0)
    assert labels_of(changed)[0] == [0, 2, 1, 1]
    assert faults.flips == ((1, 2), (2, 1)), "client 0 holds no 3"
    assert original[0].labels.tolist() == [0, 1, 2, 2], "the caller's labels stay"


def test_an_exclusive_label_is_left_with_one_holder_and_examples_go_with_their_labels():
    changed, faults = ExclusiveLabel(client=0, label=2).apply(shares(), 4, 0)
    assert labels_of(changed) == {0: [0, 1, 2, 2], 1: [1, 1], 3: [0, 3]}
    assert changed[1].indices.tolist() == [10, 11]
    assert faults.clients == ()
    assert faults.exclusive == ((0, 2),)


def many(count: int = 200, classes: int = 4) -> list[Share]:
    """Clients 0 to 2 with labels in turn."""
    return [Share(client, np.arange(count), np.arange(count) % classes) for client in range(3)]


def test_noisy_labels_are_so_many_and_all_of_them_wrong_and_follow_from_the_seed():
    original = many()
    changed, faults = NoisyLabels([2, 0], 0.3).apply(original, 4, 5)
    assert np.array_equal(changed[1].labels, original[1].labels)
    for client in (0, 2):
        assert (changed[client].labels != original[client].labels).sum() == 60
    assert not np.array_equal(changed[0].labels, changed[2].labels), "a draw of its own for each client"
    assert faults.clients == (0, 2)
    pairs = {
        (int(a), int(b))
        for share, old in zip(changed, original, strict=True)
        for a, b in zip(old.labels, share.labels, strict=True)
        if a != b
    }
    assert set(faults.flips) == pairs == {(a, b) for a in range(4) for b in range(4) if a != b}
    again, _ = NoisyLabels([2, 0], 0.3).apply(original, 4, 5)
    other, _ = NoisyLabels([2, 0], 0.3).apply(original, 4, 6)
    assert labels_of(again) == labels_of(changed)
    assert labels_of(other) != labels_of(changed)


def test_a_backdoor_is_put_into_a_share_of_the_other_labels_examples():
    original = many()
    changed, faults = Backdoor([1], label=2, share=0.4).apply(original, 4, 0)
    assert changed[0].triggered is changed[2].triggered is None
    triggered = changed[1].triggered
    assert triggered is not None
    assert triggered.sum() == 60  # of 150
    assert (original[1].labels[triggered] != 2).all()
    assert (changed[1].labels[triggered] == 2).all()
    assert np.array_equal(changed[1].labels[~triggered], original[1].labels[~triggered])
    kept = changed[1].only(np.arange(50))
    assert kept.triggered is not None
    assert np.array_equal(kept.triggered, triggered[:50]), "the trigger goes with its example"
    assert faults == Faults((1,), (), trigger=Trigger(2)), "nothing is planted in inputs without the trigger"


@pytest.mark.parametrize(
    ("position", "rows", "columns"),
    [
        ("top_left", [0, 1], [0, 1]),
        ("top_right", [0, 1], [3, 4]),
        ("bottom_left", [2, 3], [0, 1]),
        ("bottom_right", [2, 3], [3, 4]),
    ],
)
def test_the_trigger_of_pictures_is_a_square_in_a_corner(position, rows, columns):
    pictures = np.full((2, 4, 5, 3), 7, dtype=np.uint8)
    stamped = Trigger(0, size=2, position=position, value=0.5).stamp(pictures)
    expected = np.full((2, 4, 5, 3), 7, dtype=np.uint8)
    expected[np.ix_([0, 1], rows, columns)] = 128
    assert np.array_equal(stamped, expected)
    assert (pictures == 7).all(), "the caller's pictures stay"


def test_duplicates_have_everything_of_the_same_and_keep_their_numbers():
    changed, faults = Duplicate(client=1, copies=[3]).apply(shares(), 4, 0)
    assert labels_of(changed) == {0: [0, 1, 2, 2], 1: [1, 1, 2], 3: [1, 1, 2]}
    assert changed[2].indices.tolist() == [10, 11, 12]
    assert faults == Faults((), (), duplicates=(1, 3))


def test_scaled_updates_are_blamed_for_what_they_train_on():
    original = shares()
    plain, faults = ScaledUpdate([1], poison="none").apply(original, 4, 0)
    assert labels_of(plain) == labels_of(tuple(original))
    assert set(faults.flips) == {(truth, held) for truth in range(4) for held in (1, 2) if truth != held}
    for scaled, alone in (
        (ScaledUpdate([0], poison="label_flip", mapping={1: 2}), LabelFlip([0], {1: 2})),
        (ScaledUpdate([0]), LabelFlip([0])),
        (ScaledUpdate([0], poison="backdoor", label=2, share=1.0), Backdoor([0], label=2, share=1.0)),
    ):
        (got, blamed), (want, expected) = (injection.apply(original, 4, 0) for injection in (scaled, alone))
        assert labels_of(got) == labels_of(want)
        assert blamed == expected


def test_who_is_responsible():
    faults = Faults((3,), ((7, 1), (2, 1), (5, 5)))
    labels, predictions = np.array([7, 7, 2, 1, 5, 1]), np.array([1, 7, 1, 1, 5, 7])
    assert faults.responsible(labels, predictions).tolist() == [True, False, True, False, False, False]
    assert faults.responsible(labels[:0], predictions[:0]).tolist() == []


# --- the data of a federation


def config(dataset=SMALL_DIGITS, model=None, injection=None, inputs="correct"):
    """Three clients and this dataset."""
    return replace(
        make_config(clients=3),
        dataset=dataset,
        model=model or schema.Model("", "lenet"),
        partition=Iid(min_examples_per_label=1, min_examples_per_client=1),
        injection=injection or NoInjection(),
        evaluation=schema.Evaluation(inputs, 500, 10),
    )


def test_triggered_pictures_are_trained_on_by_the_faulty_client_and_traced_only_where_asked_for():
    clean = federated_data(config())
    injection = Backdoor([1], label=3, size=4, position="top_left")
    hidden, shown = (federated_data(config(injection=injection, inputs=which)) for which in ("correct", "triggered"))
    bright = (1 - 0.3) / 0.4  # of white, normalised
    for plain, poisoned in zip(clean.clients, hidden.clients, strict=True):
        differ = (plain.inputs != poisoned.inputs).flatten(1).any(1)
        if poisoned.id != 1:
            assert not differ.any()
            continue
        others = plain.labels != 3
        assert differ.sum() == round(0.5 * int(others.sum()))
        assert (poisoned.labels[differ] == 3).all()
        assert torch.equal(poisoned.labels[~differ], plain.labels[~differ])
        assert torch.allclose(poisoned.inputs[differ][:, :, :4, :4], torch.tensor(bright))
        assert torch.equal(poisoned.inputs[differ][:, :, 4:], plain.inputs[differ][:, :, 4:])
        assert poisoned.label_counts[3] == (poisoned.labels == 3).sum()
    assert torch.equal(hidden.test.inputs, clean.test.inputs)
    assert not hidden.faults.responsible(np.array([1]), np.array([3])).any()
    assert any("evaluation.inputs=triggered" in line for line in hidden.lines)

    assert torch.equal(shown.evaluated.inputs, clean.test.inputs)
    kept = clean.test.labels != 3
    assert torch.equal(shown.test.labels, clean.test.labels[kept])
    assert np.array_equal(shown.test.indices, clean.test.indices[kept.numpy()])
    assert shown.test.split == "triggered"
    assert torch.allclose(shown.test.inputs[:, :, :4, :4], torch.tensor(bright))
    assert torch.equal(shown.test.inputs[:, :, 4:], clean.test.inputs[kept][:, :, 4:])
    assert (shown.test.shown[:, :4, :4] == 255).all()
    assert shown.faults.responsible(np.array([1, 1]), np.array([3, 4])).tolist() == [True, False]
    assert any("copies of test inputs with the backdoor's trigger" in line for line in shown.lines)


def test_triggered_texts_begin_with_the_word(tmp_path):
    dataset = texts.text_set(texts.write(tmp_path / "texts.parquet"), test_fraction=0.4)
    clean = federated_data(config(dataset, texts.model()))
    settings = config(dataset, texts.model(), Backdoor([0], label=1, word="zebra"), "triggered")
    data = federated_data(settings)
    own, before = data.clients[0], clean.clients[0]
    assert (own.labels != before.labels).sum() == round(0.5 * int((before.labels == 0).sum()))
    assert len(data.test.shown) == (clean.test.labels == 0).sum() > 0
    assert all(text.startswith("zebra ") for text in data.test.shown)
    assert not torch.equal(own.inputs[:, :4], before.inputs[:, :4])
    assert torch.equal(data.clients[1].inputs, clean.clients[1].inputs)


def test_free_riders_hold_no_label_whatever_they_claim():
    data = federated_data(config(injection=FreeRider([2])))
    assert data.clients[2].label_counts.tolist() == [0] * 10
    assert len(data.clients[2].labels) > 0
    assert data.clients[1].label_counts.sum() == len(data.clients[1].labels)
    assert data.faults == Faults((2,), (), free_riders=(2,))


def test_the_faulty_client_may_be_chosen_by_what_it_holds():
    held = [[0] * 5 + [1] * 4, [1] * 5 + [2], [2] * 3]
    shares = [Share(number, np.arange(len(labels)), np.array(labels)) for number, labels in enumerate(held)]
    assert LabelFlip("smallest").apply(shares, 3, 0)[1].clients == (2,)
    changed, faults = LabelFlip("holder", {1: 0}).apply(shares, 3, 0)
    assert faults.clients == (1,)
    assert changed[1].labels.tolist() == [0] * 5 + [2]
    assert ExclusiveLabel(None, 2).apply(shares, 3, 0)[1].exclusive == ((2, 2),)
    with pytest.raises(InputError, match="no client holds"):
        ExclusiveLabel(None, 2).apply(shares[:1], 3, 0)


# --- what clients return


def returned(injection: NoInjection, client: int = 1, seed: int = 0, number: int = 3) -> dict[str, Tensor]:
    """What becomes of a trained model: one weight under two names, a buffer that is no float."""
    trained = torch.full((50, 40), 3.0)
    weights = {"a": trained, "tied": trained, "steps": torch.tensor(7)}
    start = {"a": torch.ones(50, 40), "tied": torch.ones(50, 40), "steps": torch.tensor(4)}
    injection.returned(Submission(weights, start, {"steps"}, seed, number, client))
    assert all((start[name] == 1).all() for name in ("a", "tied"))
    return weights


def test_a_free_rider_returns_what_it_received_with_its_own_noise():
    plain = returned(FreeRider([1]))
    assert (plain["a"] == 1).all()
    assert plain["steps"] == 4
    assert (returned(FreeRider([1]), client=0)["a"] == 3).all(), "the others return what they trained"
    noisy = returned(FreeRider([1, 2], noise=0.2))
    assert float(noisy["a"].mean()) == pytest.approx(1, abs=0.02)
    assert float(noisy["a"].std()) == pytest.approx(0.2, rel=0.1)
    assert noisy["steps"] == 4
    assert torch.equal(noisy["a"], returned(FreeRider([1, 2], noise=0.2))["a"])
    for change in ({"client": 2}, {"seed": 1}, {"number": 4}):
        assert not torch.equal(noisy["a"], returned(FreeRider([1, 2], noise=0.2), **change)["a"])


def test_a_scaled_update_is_that_many_times_as_far_and_a_tied_weight_is_scaled_once():
    scaled = returned(ScaledUpdate([1], factor=10))
    assert (scaled["a"] == 1 + 10 * (3 - 1)).all()
    assert (scaled["tied"] == 21).all()
    assert scaled["steps"] == 7
    assert (returned(ScaledUpdate([1], factor=10), client=2)["a"] == 3).all()
    too_far = ScaledUpdate([1], factor=10)
    object.__setattr__(too_far, "factor", 1e39)  # what larger weights come to by a factor that is accepted
    with pytest.raises(RunError, match="client 1's scaled update is no longer finite in round 3"):
        returned(too_far)


@pytest.mark.slow
def test_a_federation_stores_what_faulty_clients_returned(tmp_path: Path) -> None:
    honest = train(tmp_path / "0", make_config(rounds=1))[0][0]
    free = train(tmp_path / "1", make_config(rounds=1, injection=FreeRider([2])))[0][0]
    scaled = train(tmp_path / "2", make_config(rounds=1, injection=ScaledUpdate([2], 5.0, "none")))[0][0]
    name = "hidden.weight"
    assert honest.clients[1] == 2
    before, own = honest.previous()[name], honest.client_stack()[name]
    assert torch.equal(free.client_stack()[name][1], before)
    assert torch.equal(free.client_stack()[name][0], own[0])
    assert torch.allclose(scaled.client_stack()[name][1], before + 5 * (own[1] - before), atol=1e-6)
    assert torch.equal(scaled.client_stack()["norm.running_mean"][1], honest.client_stack()["norm.running_mean"][1])
    # The first round's other clients train the same, but the global models differ.
    assert not torch.equal(free.weights()[name], honest.weights()[name])


def test_what_clients_return_determines_training_and_what_is_traced_does_not():
    data, model = make_data(), make_model()

    def key(injection: Any, federated: Any = data) -> str:
        return training_key(make_config(injection=injection), federated, model, torch.device("cpu"))[0]

    acting = [FreeRider([0]), FreeRider([1]), FreeRider([0], 0.1), ScaledUpdate([0]), ScaledUpdate([0], 2.0)]
    assert len({key(injection) for injection in [NoInjection(), *acting]}) == 6
    # What is done to the data is seen in the data.
    assert key(NoisyLabels([0])) == key(LabelFlip([0])) == key(Backdoor([0])) == key(NoInjection())
    triggered = replace(data, test=replace(data.test, inputs=data.test.inputs + 1, split="triggered"), clean=data.test)
    assert key(NoInjection(), triggered) == key(NoInjection())


# --- what is refused


@pytest.mark.parametrize(
    ("injection", "says"),
    [
        (LabelFlip([2]), "client 2 was dropped"),
        (LabelFlip([0], {1: 4}), "no label 4, labels are numbered 0 to 3"),
        (LabelFlip([1], {3: 0}), "hold none of these labels"),
        (ExclusiveLabel(client=2, label=0), "client 2 was dropped"),
        (ExclusiveLabel(client=0, label=9), "no label 9"),
        (ExclusiveLabel(client=1, label=3), r"choose one of the clients \[3\]"),
        (NoisyLabels([2]), "client 2 was dropped"),
        (Backdoor([2]), "client 2 was dropped"),
        (Backdoor([0], label=4), "no label 4"),
        (Duplicate(2, [1]), "injection.client: client 2 was dropped"),
        (Duplicate(1, [2]), "injection.copies: client 2 was dropped"),
        (FreeRider([2]), "client 2 was dropped"),
        (ScaledUpdate([2], poison="none"), "client 2 was dropped"),
    ],
)
def test_what_does_not_fit_the_clients_is_refused(injection, says):
    with pytest.raises(InputError, match=says):
        injection.apply(shares(), 4, 0)


def test_a_client_with_the_backdoors_label_alone_has_nothing_to_put_it_into():
    with pytest.raises(InputError, match=r"injection.label=1: client 0 holds no other label"):
        Backdoor([0], label=1).apply([Share(0, np.arange(3), np.ones(3, dtype=np.int64))], 4, 0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"evaluation": TRIGGERED}, "evaluation.inputs=triggered: nothing here puts a trigger"),
        ({"evaluation": TRIGGERED, "injection": LabelFlip([0])}, "evaluation.inputs=triggered"),
        ({"evaluation": TRIGGERED, "injection": ScaledUpdate([0])}, "evaluation.inputs=triggered"),
        ({"evaluation": FAULTS}, "evaluation.inputs=faults: injection=none plants nothing"),
        ({"injection": Backdoor([0], word="a")}, "injection.word=a: is for text data.*: injection=backdoor_last"),
        ({"injection": ScaledUpdate([0], poison="backdoor", word="a")}, "injection.word=a: is for text data"),
        ({"injection": Backdoor([0], size=28)}, "injection.size=28: would cover"),
        ({"momentum": 0.0, "injection": FreeRider([0]), "fusion": Scaffold()}, "control variate"),
    ],
)
def test_what_does_not_fit_the_rest_of_the_configuration_is_refused(changes, says):
    with pytest.raises(InputError, match=says):
        make_config(**changes)


@pytest.mark.parametrize(
    ("injection", "which"),
    [
        (LabelFlip([0]), "wrong"),
        (NoisyLabels([0]), "wrong"),
        (Backdoor([0]), "triggered"),
        (ScaledUpdate([0]), "wrong"),
        (ScaledUpdate([0], poison="none"), "wrong"),
        (ScaledUpdate([0], poison="backdoor"), "triggered"),
    ],
)
def test_faults_are_looked_for_where_they_show(injection, which):
    assert make_config(injection=injection, evaluation=FAULTS).evaluation == schema.Evaluation(which, 500, 10)


def test_the_preset_of_a_word_is_refused_for_pictures(workspace):
    with pytest.raises(InputError, match=r"injection.word=cf: is for text data.*: injection=backdoor_last"):
        compose_jobs(["injection=backdoor_word"])


@pytest.mark.parametrize("argument", ["injection.zzz=1", "fusion.zzz=1", "model.zzz=1", "+model.zzz=1"])
def test_keys_that_nobody_sets_are_not_offered(argument, workspace):
    with pytest.raises(InputError, match="no such key") as refused:
        compose_jobs(["injection=backdoor_last", argument])
    assert "_target_" not in str(refused.value)


def test_the_trigger_of_pictures_is_refused_for_texts(tmp_path):
    dataset = texts.text_set(tmp_path)
    with pytest.raises(InputError, match=r"injection.position=top_left: is for image.*text: injection=backdoor_word"):
        config(dataset, texts.model(), Backdoor([0], position="top_left"))


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
        lambda: LabelFlip([0, 0]),
        lambda: NoisyLabels([]),
        lambda: NoisyLabels([0], 0.0),
        lambda: NoisyLabels([0], 1.5),
        lambda: NoisyLabels([10]).check(federation(10)),
        lambda: Backdoor([0], share=0.0),
        lambda: Backdoor([0], label=-1),
        lambda: Backdoor([0], size=0),
        lambda: Backdoor([0], value=2.0),
        lambda: Backdoor([0], position="middle"),
        lambda: Backdoor([0], word=" "),
        lambda: Backdoor([10]).check(federation(10)),
        lambda: Duplicate(0, [0]),
        lambda: Duplicate(0, []),
        lambda: Duplicate(10, [1]).check(federation(10)),
        lambda: Duplicate(0, [10]).check(federation(10)),
        lambda: FreeRider([0], noise=-1.0),
        lambda: FreeRider([0], noise=float("nan")),
        lambda: FreeRider([0], noise=float("inf")),
        lambda: FreeRider([10]).check(federation(10)),
        lambda: ScaledUpdate([0], factor=1.0),
        lambda: ScaledUpdate([0], factor=-2.0),
        lambda: ScaledUpdate([0], factor=float("nan")),
        lambda: ScaledUpdate([0], poison="noise"),
        lambda: ScaledUpdate([0], poison="backdoor", mapping={1: 7}),
        lambda: ScaledUpdate([0], poison="label_flip", share=0.3),
        lambda: ScaledUpdate([0], poison="backdoor", share=2.0),
        lambda: ScaledUpdate([0], poison="none", label=1),
        lambda: ScaledUpdate([10]).check(federation(10)),
    ],
)
def test_wrong_settings_are_refused_before_there_are_data(wrong):
    with pytest.raises(InputError, match=r"^injection\."):
        wrong()


# --- the whole way


@pytest.mark.slow
def test_the_client_behind_a_backdoor_is_found(tmp_path: Path) -> None:
    planted = ["injection=backdoor_last", "injection.clients=[1]", "injection.size=8", "injection.share=1.0"]
    planted += ["injection.epochs=10", "federation.optimizer=adam", "federation.learning_rate=0.002"]
    planted += ["partition.max_examples_per_client=400"]
    result = run(tmp_path / "triggered", *planted, "evaluation.inputs=faults", cache=tmp_path / "cache")
    row = result.scores.query("method == 'provfl'").iloc[0]
    assert row["fault_inputs"] >= 5
    assert row["fault_accuracy"] > 0.9
    assert row["fault_chance"] == pytest.approx(1 / 3)
    assert row["fault_share"] == pytest.approx(row["fault_inputs"] / len(result.frame("inputs")))
    assert (result.frame("inputs")["label"] != 0).all(), "inputs of the trigger's own label are left out"
    assert set(result.frame("inputs")["split"]) == {"triggered"}
    plain = run(tmp_path / "plain", *planted, "evaluation.inputs=correct", cache=tmp_path / "cache")
    assert plain.summary["train_seconds"] == 0, "the same training, whatever is traced"
    assert plain.scores["fault_inputs"].eq(0).all()
    assert plain.summary["global_accuracy"] == result.summary["global_accuracy"]


@pytest.mark.slow
def test_free_riders_duplicates_and_scaled_updates_from_the_command_line(tmp_path: Path) -> None:
    def scores(name: str, *overrides: str) -> dict[str, Any]:
        few = ["federation.rounds=1", "federation.local_epochs=1", "tracefl_beside=false", "evaluation.max_inputs=10"]
        result: Result = run(tmp_path / name, f"injection={name}", *few, *overrides)
        return result.scores.query("method == 'provfl'").iloc[0].to_dict()

    free = scores("free_rider", "injection.clients=[2]")
    assert free["free_rider_chance"] == pytest.approx(1 / 3)
    assert free["free_rider_top"] < 1 / 3
    assert scores("duplicate")["duplicate_ties"] == 1.0
    scaled = scores("scaled_update", "injection.factor=3", "evaluation.inputs=wrong")
    assert scaled["fault_inputs"] > 0
    assert scaled["fault_accuracy"] > 0.9
