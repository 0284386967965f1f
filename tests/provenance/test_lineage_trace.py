"""Traces over all rounds: what they credit, that it adds up, and that a mistake is caught."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from provfl_cli.config.validate import provenance_preset
from provfl_cli.data.federated import FederatedData
from provfl_cli.errors import InputError, RunError
from provfl_cli.evaluation.metrics import localization
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.lineage_rows import Lineage
from provfl_cli.provenance.lineage import LineageRound, lineage_round
from provfl_cli.provenance.tracing import trace
from provfl_cli.store.rounds import Round

from ..federations import make_config, make_data, make_model
from ..lineages import Work, chain, composed_fusion
from ..traced_rounds import traced_round
from .federations import settings
from .lineage_work import work
from .networks import LeNet

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> list[Round]:
    """Three rounds of FedAvgM, float32, with a decay."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("single")
    return chain(folder, composed_fusion("fedavgm"), LeNet().state_dict(), work, 3, 0.9)


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Round:
    """The last of three rounds of FedAvgM, float64."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("double")
    return chain(folder, composed_fusion("fedavgm"), LeNet().double().state_dict(), work, 3)[-1]


@pytest.mark.parametrize("of", ["updates", "weights"])
@pytest.mark.parametrize("weighting", ["none", "fusion"])
def test_the_residual_of_a_float32_lenet_is_below_1e5(single: list[Round], of: str, weighting: str) -> None:
    images = torch.randn(12, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    chosen = settings(of=of, client_weighting=weighting, threshold=0.0)
    answer = trace(LeNet(), images, lineage_round(single[-1]), chosen)
    assert answer.residuals.max() < 1e-5
    assert answer.clients == (0, 1, 2, 3, 4, 5)
    assert answer.candidates.all()
    assert set(answer.rows) == {"noise", "stale", "forgotten", *(["previous"] if of == "weights" else [])}
    assert all(np.abs(row).max() > 0 for row in answer.rows.values())
    assert np.abs(answer.values[:, 0]).max() > 1e-4, "client 0 took part in round 1 only"


@pytest.mark.parametrize("weighting", ["none", "fusion"])
def test_contributions_are_the_inner_product_with_the_accumulators(double: Round, weighting: str) -> None:
    """With beta 1 and no mask: `<acc_k, dy_b / dW>` by autograd, and all of them add up to `<W - W_0, dy_b / dW>`."""
    model, lineage = LeNet().double(), double.lineage()
    assert lineage is not None
    images = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    chosen = settings(client_weighting=weighting, layer_decay=1.0, target="logit")
    answer = trace(model, images, lineage_round(double), chosen, layer_sample=3)
    model.load_state_dict(dict(double.weights()))
    group = {"none": "plain", "fusion": "weighted"}[weighting]
    for b, image in enumerate(images):
        model.zero_grad()
        model(image[None])[0, int(answer.predictions[b])].backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        for k, ours in enumerate(answer.values[b]):
            wanted = sum(float((lineage.tensors[f"{group}/{n}"][k] * g).sum()) for n, g in gradients.items())
            assert ours == pytest.approx(wanted, rel=1e-8, abs=1e-12)
        moved = sum(float(((double.weights()[n] - lineage.initial[n]) * g).sum()) for n, g in gradients.items())
        if weighting == "fusion":
            total = answer.values[b].sum() + sum(row[b] for row in answer.rows.values())
            assert total == pytest.approx(moved, rel=1e-8)
    together = sum(layer.contributions for layer in answer.layers)
    assert np.allclose(together, answer.values, rtol=1e-9, atol=1e-13)


def test_weighting_and_what_is_contracted_change_only_what_they_say(double: Round) -> None:
    source = lineage_round(double)
    images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def values(**changed: Any) -> np.ndarray:
        return trace(LeNet().double(), images, source, settings(**changed)).values

    with_q, without = values(client_weighting="fusion"), values()
    assert np.allclose(values(of="weights"), without), "an accumulator is a sum of updates, whatever `of` says"
    assert not np.allclose(with_q, without)
    only_once = without[:, 0] / with_q[:, 0]  # client 0: 10 of the 46 examples of round 1
    assert np.allclose(only_once, 46 / 10)


def changed(source: LineageRound, tensors: dict[str, Tensor]) -> LineageRound:
    lineage = source.lineage
    return LineageRound(source.after, Lineage(lineage.rows, lineage.initial, {**lineage.tensors, **tensors}))


@pytest.mark.parametrize("mistake", ["a client is lost", "noise is lost", "forgotten is lost", "initial model"])
def test_a_mistake_is_caught(single: list[Round], mistake: str) -> None:
    source = lineage_round(single[-1])
    images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    weighted = {name: tensor.clone() for name, tensor in source.lineage.tensors.items() if name.startswith("weighted/")}
    if mistake == "initial model":
        broken = LineageRound(source.after, dataclasses.replace(source.lineage, initial=dict(single[0].weights())))
    else:
        lost: int | str = {"a client is lost": 0, "noise is lost": "noise", "forgotten is lost": "forgotten"}[mistake]
        for tensor in weighted.values():
            tensor[source.lineage.rows.positions[lost]] = 0
        broken = changed(source, weighted)
    with pytest.raises(RunError, match="conservation fails"):
        trace(LeNet(), images, broken, settings())


def test_a_round_stored_without_says_what_to_do(tmp_path: Path) -> None:
    (stored,) = chain(tmp_path, FedAvg(), LeNet().state_dict(), work, 1, None)
    with pytest.raises(RunError, match="trained without lineage"):
        lineage_round(stored)


@pytest.mark.parametrize("wrong", [{"scope": "rounds"}, {"lineage_decay": 0.0}, {"lineage_decay": 1.5}])
def test_settings_have_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"provenance\.{next(iter(wrong))}"):
        settings(**wrong)


def leaving(data: FederatedData) -> Any:
    """Clients train in earnest, a few steps of gradient descent; the first takes part in round 1 only."""

    def work(number: int, model: dict[str, Tensor], before: list[dict[str, Tensor]]) -> Work:
        sent = {}
        for client in data.clients[number > 1 :]:
            network: nn.Module = make_model()
            network.load_state_dict(model)
            weights = list(network.parameters())
            for _ in range(5):
                loss = nn.functional.cross_entropy(network(client.inputs), client.labels)
                for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                    weight.data -= 0.1 * gradient
            sent[client.id] = (len(client.labels), network.state_dict())
        return Work(sent)

    return work


@pytest.mark.slow
def test_both_scopes_are_traced_and_scored_and_a_client_that_left_keeps_its_part(tmp_path: Path) -> None:
    data, model = make_data(clients=3, test=60), make_model()
    buffers = frozenset(model.state_dict()) - {name for name, _ in model.named_parameters()}
    rounds = chain(tmp_path, FedAvg(), model.state_dict(), leaving(data), 2, 1.0, buffers)
    own = dataclasses.replace(provenance_preset("provfl"), scope="lineage")
    config = make_config(provenance=own)
    counts = {client.id: client.label_counts for client in data.clients}
    traced = traced_round(config, [own, provenance_preset("tracefl")], data, model, rounds[-1])
    frame = traced.contributions
    assert set(zip(frame["method"], frame["scope"], strict=True)) == {
        ("provfl", "round"),
        ("tracefl", "round"),
        ("provfl", "lineage"),
    }
    clients = frame[frame["kind"] == "client"].groupby(["method", "scope"])["client"].unique()
    assert sorted(clients["provfl", "round"]) == [2, 4]
    assert sorted(clients["provfl", "lineage"]) == [0, 2, 4]
    left = frame[(frame["scope"] == "lineage") & (frame["client"] == 0)]
    assert (left["contribution"] != 0).all()
    assert traced.last == {0: 1, 2: 2, 4: 2}
    assert traced.lineage is not None
    assert traced.lineage.residuals.max() < 1e-5
    scores = localization(frame, counts, 5, data.faults)
    assert list(zip(scores["scope"], scores["clients"], strict=True)) == [("round", 2), ("lineage", 3), ("round", 2)]
    plain = traced_round(make_config(), [provenance_preset("provfl")], data, model, rounds[-1])
    assert plain.last == {}
    assert set(plain.contributions["scope"]) == {"round"}
    ours = frame[(frame["method"] == "provfl") & (frame["scope"] == "round") & (frame["kind"] == "client")]
    both = plain.contributions.merge(ours, on=["input", "client"])  # with lineage, more labels have a holder
    assert len(both) >= 6
    assert np.allclose(both["contribution_x"], both["contribution_y"], rtol=1e-3, atol=1e-4)
