"""`from_state_dicts` and `trace` as people call them: what does not fit is said in one line; clients have names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from provfl_cli.errors import InputError, RunError
from provfl_cli.provenance import Contributions, from_state_dicts, trace, trace_targets
from provfl_cli.provenance.state_dicts import RoundInMemory

from .federations import perturbed, settings

Clients = list[dict[str, Tensor]]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def models() -> tuple[dict[str, Tensor], Clients]:
    before = {name: tensor.clone() for name, tensor in net().state_dict().items()}
    return before, [perturbed(before, 0.1, seed) for seed in range(3)]


def made(**changed: Any) -> RoundInMemory:
    before, clients = models()
    return from_state_dicts(**{"clients": clients, "examples": [1, 2, 3], "previous": before, **changed})


def asked(**changed: Any) -> Contributions:
    return trace(**{"model": net(), "inputs": torch.ones(4, 6), "source": made(), **changed})


def refused(call: Callable[[], object], *words: str, kind: type[Exception] = InputError) -> None:
    with pytest.raises(kind) as caught:
        call()
    said = str(caught.value)
    assert said.isprintable(), "one line, without control characters"
    for word in words:
        assert word in said


def changed_client(change: Callable[[dict[str, Tensor]], object]) -> Clients:
    clients = models()[1]
    change(clients[1])
    return clients


def put(name: str, tensor: Any) -> Callable[[dict[str, Tensor]], object]:
    return lambda client: client.__setitem__(name, tensor)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda client: client.pop("2.bias"), ["has no tensor 2.bias", "previous has"]),
        (put("more", torch.ones(1)), ["has a tensor more", "previous has not"]),
        (put("2.bias", torch.ones(4)), ["2.bias is [4]", "[3]"]),
        (put("2.bias", torch.ones(3, dtype=torch.float64)), ["2.bias is torch.float64", "torch.float32"]),
        (put("2.bias", np.ones(3, dtype=np.float32)), ["2.bias is a ndarray", "torch.as_tensor"]),
        (put("2.bias", [1.0, 2.0, 3.0]), ["2.bias is a list", "torch.as_tensor"]),
        (put("2.bias", torch.tensor([1.0, torch.nan, 0.0])), ["2.bias holds NaN (1 of 3"]),
        (put("2.bias", torch.tensor([1.0, -torch.inf, torch.inf])), ["2.bias holds infinity (2 of 3"]),
        (put("2.bias", torch.ones(3, device="meta")), ["2.bias is on the device meta"]),
        (put("2.bias", torch.ones(3).to_sparse()), ["2.bias is sparse"]),
        (lambda client: client.clear(), ["holds no tensor"]),
        (put("\x1b[2J", torch.ones(1)), ["has a tensor"]),
    ],
)
def test_a_client_that_does_not_fit_is_named(change: Callable[[dict[str, Tensor]], object], words: list[str]) -> None:
    clients = changed_client(change)
    refused(lambda: made(clients=clients), "clients[1]: ", *words)
    refused(lambda: made(clients=clients, names=["x", "clinic\x1b B", "z"]), "clients[1] (clinic", *words)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"clients": []}, ["clients: there is none"]),
        ({"clients": {}, "examples": {}}, ["clients: there is none"]),
        ({"clients": net()}, ["clients: give a list"]),
        ({"clients": net().state_dict()}, ["clients: is a single state dict"]),
        ({"clients": [net(), net(), net()]}, ["clients[0]: is a Sequential", "state_dict()"]),
        ({"clients": "abc"}, ["clients: give a list"]),
        ({"clients": None}, ["clients: give a list"]),
        ({"examples": [1, 2]}, ["examples: 2 numbers for 3 clients"]),
        ({"examples": 3}, ["examples: is an int"]),
        ({"examples": None}, ["examples: is None"]),
        ({"examples": [1, -2, 3]}, ["examples: -2 for clients[1]", "from 0"]),
        ({"examples": [1, 2.5, 3]}, ["examples: 2.5 for clients[1]", "whole numbers"]),
        ({"examples": [1, float("nan"), 3]}, ["examples: nan for clients[1]"]),
        ({"examples": [1, True, 3]}, ["examples: True for clients[1]"]),
        ({"examples": [1, "2", 3]}, ["examples: '2' for clients[1]"]),
        ({"examples": [1, 10**13, 3]}, ["for clients[1]", "1,000,000,000,000"]),
        ({"examples": [0, 0, 0]}, ["examples: 0 for every client"]),
        ({"examples": {"a": 1}}, ["examples"]),
        ({"names": ["a", "b"]}, ["names: 2 names for 3 clients"]),
        ({"names": ["a", "b", "a"]}, ["names: a is there twice"]),
        ({"names": ["a", " ", "c"]}, ["names: ' ' for clients[1]"]),
        ({"names": ["a", 2, "c"]}, ["names: 2 for clients[1]"]),
        ({"names": "abc"}, ["names: is a str"]),
        ({"names": {"a", "b", "c"}}, ["names: is a set"]),
        ({"previous": net()}, ["previous: is a Sequential", "state_dict()"]),
        ({"previous": {}}, ["previous: holds no tensor"]),
        ({"previous": None}, ["previous: is None"]),
        ({"weights": {}}, ["weights: holds no tensor"]),
        ({"weights": {"x": torch.ones(1)}}, ["weights: has no tensor", "previous has"]),
    ],
)
def test_rounds_that_are_none(changed: dict[str, Any], words: list[str]) -> None:
    refused(lambda: made(**changed), *words)


@pytest.mark.parametrize("which", ["previous", "weights"])
def test_the_culprit_of_numbers_that_are_not_finite_is_named(which: str) -> None:
    before, _ = models()
    before["0.weight"][2, 1] = torch.nan
    refused(lambda: made(**{which: before}), f"{which}: 0.weight holds NaN (1 of 30")


def test_types_that_torch_hardly_knows() -> None:
    small = {"w": torch.tensor([1.0, torch.nan]).to(torch.float8_e4m3fn)}
    refused(lambda: from_state_dicts([small], [1], small), "previous: w holds NaN (1 of 2")
    turning = {"w": torch.ones(2), "turn": torch.tensor([1j, 2 + 4j])}
    source = from_state_dicts([turning, {**turning, "turn": torch.tensor([3j, 2 + 0j])}], [1, 1], turning)
    assert source.weights()["turn"].tolist() == [2j, 2 + 2j]


def test_clients_by_name() -> None:
    before, clients = models()
    names = ["Ward <3>", "clinic\x1b[2J", "lab"]
    listed = made(names=names)
    mapped = from_state_dicts(
        dict(zip(names, clients, strict=True)), dict(zip(names[::-1], [3, 2, 1], strict=True)), before
    )
    by_list, same, plain = asked(source=listed), asked(source=mapped), asked()
    assert np.array_equal(by_list.values, plain.values)
    assert np.array_equal(by_list.values, same.values)
    for answer in (by_list, same):
        assert answer.clients == (0, 1, 2)
        assert answer.client_names == tuple(names)
        assert answer.to_frame()["name"].tolist()[:3] == names
        for shown in (repr(answer), answer._repr_html_()):
            assert "lab" in shown
            assert "\x1b" not in shown
        assert "Ward <3>" in repr(answer)
        assert "Ward &lt;3&gt;" in answer._repr_html_()
        assert "<3>" not in answer._repr_html_()
    assert plain.names == ()
    assert plain.client_names == ("0", "1", "2")
    best = int(plain.values[0].argmax())
    assert f"input 0, class {plain.predictions[0]}: {best} " in repr(plain)
    refused(lambda: made(clients=dict(zip(names, clients, strict=True)), names=names), "given by name already")
    refused(lambda: made(clients=dict(zip(names, clients, strict=True)), examples={"lab": 1}), "no number for Ward <3>")
    refused(
        lambda: made(clients={"a": clients[0]}, examples={"a": 1, "b": 2}), "examples: b is no client"
    )  # fmt: skip


def test_the_frame_holds_what_the_result_does() -> None:
    answer = asked(source=made(examples=[0, 2, 3]))
    frame = answer.to_frame()
    assert len(frame) == 4 * 3
    assert frame["contribution"].to_numpy().reshape(4, 3) == pytest.approx(answer.values)
    assert frame.loc[frame["client"] == 0, "share"].isna().all()  # fusion did not use it
    assert frame["used"].tolist()[:3] == [False, True, True]
    powers = np.exp(answer.values[:, 1:])
    assert frame["share"].to_numpy().reshape(4, 3)[:, 1:] == pytest.approx(powers / powers.sum(1, keepdims=True))
    assert frame["prediction"].to_numpy().reshape(4, 3)[:, 0].tolist() == answer.predictions.tolist()


def test_what_people_have_at_hand_is_taken() -> None:
    """Arrays of counts, parameters that require gradients, another type of model, numbers instead of presets."""
    before, clients = models()
    expected = asked().values
    counted = [np.array([1, 2, 3]), torch.tensor([1, 2, 3]), (np.int64(1), 2, 3)]
    for examples in counted:
        assert np.array_equal(asked(source=made(examples=examples)).values, expected)
    grown = [{name: nn.Parameter(tensor) for name, tensor in client.items()} for client in clients]
    source = made(clients=tuple(grown), previous={name: nn.Parameter(tensor) for name, tensor in before.items()})
    assert not any(tensor.requires_grad for tensor in source.client_stack().values())
    assert np.array_equal(asked(source=source).values, expected)
    model = net().train()
    assert np.array_equal(asked(model=model, settings="provfl").values, expected)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    classes = [0, 2, 1, 0]
    for same in (classes, np.array(classes), torch.tensor(classes, dtype=torch.int32), tuple(classes)):
        assert asked(classes=same).predictions.tolist() == classes


def test_dropout_is_off_in_a_model_that_is_still_in_training_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.9), nn.Linear(5, 3)).train()
    values = [asked(model=model).values for _ in range(2)]
    assert np.array_equal(*values)
    assert model[1].training


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": net}, ["model: is a function", "torch.nn.Module"]),
        ({"model": net().state_dict()}, ["model: is a OrderedDict"]),
        ({"model": nn.ReLU()}, ["model: has no parameters"]),
        ({"model": nn.Sequential(nn.Linear(6, 5), nn.ReLU())}, ["is not the model", "2.bias", "the model has not"]),
        ({"model": nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))}, ["0.weight is [5, 7]", "[5, 6]"]),
        ({"model": net().to("meta")}, ["model: is on the device meta"]),
        ({"source": models()[1]}, ["source: is a list", "from_state_dicts"]),
        ({"source": None}, ["source: is a NoneType"]),
        ({"inputs": np.ones((4, 6))}, ["inputs: is a ndarray", "torch.as_tensor"]),
        ({"inputs": [[1.0] * 6]}, ["inputs: is a list"]),
        ({"inputs": torch.ones(0, 6)}, ["inputs: has the shape [0, 6]", "at least one"]),
        ({"inputs": torch.tensor(1.0)}, ["inputs: has the shape []"]),
        ({"inputs": {}}, ["inputs: there is none"]),
        ({"inputs": {"a": torch.ones(2, 6), "b": torch.ones(3, 6)}}, ["inputs: of different numbers", "a 2, b 3"]),
        ({"inputs": {"a": [1]}}, ["inputs['a']: is a list"]),
        ({"inputs": {"hidden": torch.ones(2, 6)}}, ["the model cannot compute these inputs", "hidden"]),
        ({"inputs": torch.ones(4, 7)}, ["the model cannot compute these inputs"]),
        ({"inputs": torch.ones(4, 6, dtype=torch.int64)}, ["the model cannot compute these inputs"]),
        ({"inputs": torch.ones(4, 6, device="meta")}, ["inputs: is on the device meta"]),
        ({"inputs": torch.tensor([[0.0] * 6, [0.0, torch.nan] * 3])}, ["inputs: input 1 holds NaN (3 of 12"]),
        ({"inputs": torch.full((1, 6), torch.inf)}, ["inputs: input 0 holds infinity (6 of 6"]),
        ({"classes": [0, 1]}, ["classes: has the shape [2]", "each of the 4 inputs"]),
        ({"classes": [[0, 1, 2, 0]]}, ["classes: has the shape [1, 4]"]),
        ({"classes": 1}, ["classes: has the shape []"]),
        ({"classes": [0, 1, 2, 3]}, ["classes: holds 3", "3 classes apart: 0 to 2"]),
        ({"classes": [0, 1, 2, -1]}, ["classes: holds -1", "count from 0"]),
        ({"classes": [0.0, 1.0, 2.0, 0.0]}, ["classes: is of type torch.float32"]),
        ({"classes": [True] * 4}, ["classes: is of type torch.bool"]),
        ({"classes": ["cat"] * 4}, ["classes: is a list that is no list of numbers"]),
        ({"classes": "cat"}, ["classes: is a str"]),
        ({"layer_sample": -1}, ["layer_sample=-1"]),
        ({"layer_sample": 1.5}, ["layer_sample=1.5"]),
        ({"settings": "fiathful"}, ["did you mean faithful"]),
        ({"settings": {"target": "logit"}}, ["settings: is a dict"]),
    ],
)  # fmt: skip
def test_traces_that_cannot_be(changed: dict[str, Any], words: list[str]) -> None:
    refused(lambda: asked(**changed), *words)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_class_that_there_is_not_is_seen_in_every_batch(batch_size: int) -> None:
    refused(lambda: asked(classes=[0, 0, 0, 9], settings=settings(batch_size=batch_size)), "classes: holds 9")


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([], ["targets: give a list of pairs"]),
        ("logit", ["targets: give a list of pairs"]),
        (["logit"], ["targets: 'logit' is no pair"]),
        ([("logits", None)], ["targets: 'logits' is no kind", "did you mean logit"]),
        ([("logit", None), ("logit", [1])], ["classes: has the shape [1]"]),
    ],
)
def test_targets_that_are_none(targets: Any, words: list[str]) -> None:
    refused(lambda: trace_targets(net(), torch.ones(4, 6), made(), settings(), targets), *words)


@pytest.mark.parametrize("target", ["logit", "centred", "margin"])
def test_one_logit_is_told_how_to_be_two(target: str) -> None:
    model = nn.Sequential(nn.Linear(6, 1))
    chosen = settings(target=target)
    refused(lambda: trace(model, torch.ones(2, 6), of_one(model), chosen), "two classes need two logits", "torch.cat")


class Pair(nn.Module):
    """Gives logits with something beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(x), x


class Overflowing(nn.Module):
    """Its logits are too large for the type of its numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) * 3e38 * 10


def of_one(model: nn.Module) -> RoundInMemory:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return from_state_dicts([perturbed(before, 0.1, 1)], [1], before)


def test_models_that_give_no_logits() -> None:
    refused(lambda: trace(Pair(), torch.ones(2, 6), of_one(Pair())), "a tuple: a tensor of logits", kind=RunError)
    model = nn.Sequential(nn.Linear(6, 3), nn.Flatten(0))
    refused(lambda: trace(model, torch.ones(2, 6), of_one(model)), "logits [inputs, classes] are needed", kind=RunError)


def test_logits_that_are_not_finite_are_not_called_a_failed_conservation() -> None:
    model = Overflowing()
    refused(lambda: trace(model, torch.ones(2, 6), of_one(model)), "the model's logits hold", kind=RunError)


def test_errors_of_our_own_rules_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the model cannot be asked at all are the inputs to blame."""

    def broken(*_: object) -> None:
        raise ValueError("a rule is wrong")

    monkeypatch.setattr("provfl_cli.provenance.batch.contract", broken)
    monkeypatch.setattr("provfl_cli.provenance.batch._is_small", lambda factor: False)
    with pytest.raises(RunError, match=r"cannot be followed through the model: a rule is wrong"):
        asked()


def test_settings_out_of_range_are_refused_where_they_are_made() -> None:
    with pytest.raises(InputError, match=re.escape("provenance.of")):
        replace(settings(), of="wieghts")
