"""SCAFFOLD against its algorithm written out, and its control variates through sites, workers and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from provfl_cli.config import schema
from provfl_cli.config.compose import compose_jobs
from provfl_cli.config.validate import provenance_preset, validated
from provfl_cli.data.federated import ClientData, FederatedData
from provfl_cli.errors import InputError
from provfl_cli.federation.client import full_gradient, local_steps, train_client
from provfl_cli.federation.controls import CONTROLS, begin_controls, end_controls, write_corrections
from provfl_cli.federation.engine import engine
from provfl_cli.federation.optimizers import total_rate
from provfl_cli.federation.site import Site, TrainTask, shared_tensors
from provfl_cli.federation.train import federated_rounds
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.fuse import FusionResult, fuse
from provfl_cli.fusion.privacy import NoPrivacy
from provfl_cli.fusion.scaffold import Scaffold
from provfl_cli.fusion.updates import ReturnedModels
from provfl_cli.provenance import trace
from provfl_cli.provenance.state_dicts import RoundInMemory
from provfl_cli.store.new_round import begin_round
from provfl_cli.store.rounds import CLIENTS, CORRECTIONS, NEXT_STATE
from provfl_cli.store.tensorfile import open_tensors, specs_of, write_tensors

from .federations import make_config, make_data, make_model


class Linear(nn.Module):
    """Softmax regression, and a layer that the loss does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Linear(64, 10)
        self.unused = nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits(inputs.flatten(1))


def linear() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Linear()


def plain(**changes: Any) -> schema.Federation:
    """3 steps a round, each along the whole share."""
    usual = {"batch_size": 100, "local_epochs": 3, "momentum": 0.0, "learning_rate": 0.1}
    return make_config(**{**usual, **changes}).federation


def site_of(data: FederatedData, model: nn.Module, settings: schema.Federation, fusion: Scaffold) -> Site:
    published = shared_tensors(specs_of(model.state_dict()))
    buffers = frozenset(published) - {name for name, _ in model.named_parameters()}
    return Site(model, data, settings, fusion, NoPrivacy(), 0, published, buffers)


def train_round(
    site: Site,
    rounds: Path,
    number: int,
    weights: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    work: Sequence[tuple[int, int]],
    workers: int = 0,
) -> FusionResult:
    """A round as a server does it: `work` is (position, epochs); its folder keeps what the next one needs."""
    for name, tensor in site.published.items():
        tensor.copy_(weights[name])
    temporary = begin_round(rounds, number, specs_of(weights), len(work))
    before = rounds / f"{number - 1:04d}" if number > 1 else None
    controls = begin_controls(temporary, before, site.shared_weights(), len(site.data.clients))
    file = str(temporary / CLIENTS)
    tasks = [TrainTask(number, position, file, slot, epochs, controls) for slot, (position, epochs) in enumerate(work)]
    with engine(site, workers) as perform:
        assert len(list(perform(tasks))) == len(work)
    examples = [len(site.data.clients[position].labels) for position, _ in work]
    steps = [local_steps(count, site.settings, epochs) for count, (_, epochs) in zip(examples, work, strict=True)]
    returned = ReturnedModels(weights, open_tensors(temporary / CLIENTS), examples, steps, site.buffers)
    fused = fuse(site.fusion, returned, state)
    shares = site.fusion.control_shares([len(client.labels) for client in site.data.clients])
    fused.state.update(end_controls(temporary, before, state, [position for position, _ in work], shares))
    rates = [total_rate(site.settings, 1, count) for count in steps]
    write_corrections(site.fusion, temporary, before, number, [position for position, _ in work], rates)
    write_tensors(temporary / NEXT_STATE, fused.state)
    temporary.rename(rounds / f"{number:04d}")
    return fused


WORK = [[(0, 3), (1, 3), (3, 3)], [(1, 3), (2, 1), (3, 3)], [(0, 2), (2, 3), (3, 3)]]  # of 4 clients; some less than 3


@pytest.mark.parametrize("option", ["I", "II"])
@pytest.mark.parametrize(("decay", "weighted"), [(0.0, False), (0.01, False), (0.0, True)])
def test_against_the_algorithm_written_out(option: str, decay: float, weighted: bool, tmp_path: Path) -> None:
    """Algorithm 1 of the paper in float64, three rounds, three of four clients in each, partial work among it."""
    data, model = make_data(), linear()
    settings, fusion = plain(weight_decay=decay), Scaffold(option, 0.7, weighted)
    counts = torch.tensor([len(client.labels) if weighted else 1 for client in data.clients]).double()
    site = site_of(data, model, settings, fusion)
    weights: Mapping[str, Tensor] = {name: value.clone() for name, value in model.state_dict().items()}
    state: Mapping[str, Tensor] = {}

    def gradient(x: Tensor, client: ClientData) -> Tensor:
        x = x.clone().requires_grad_()
        inputs = torch.cat([client.inputs.flatten(1).double(), torch.ones(len(client.labels), 1)], 1)
        loss = nn.functional.cross_entropy(inputs @ x.T, client.labels) + decay / 2 * x.square().sum()
        return torch.autograd.grad(loss, x)[0]

    x = torch.cat([weights["logits.weight"], weights["logits.bias"][:, None]], 1).double()
    c, own = torch.zeros_like(x), [torch.zeros_like(x) for _ in range(4)]
    for number, work in enumerate(WORK, 1):
        moves, changes, steps = [], [], []
        for position, epochs in work:
            y, client, along = x.clone(), data.clients[position], torch.zeros_like(x)
            for _ in range(epochs):
                along = along - 0.1 * gradient(y, client)
                y = y - 0.1 * (gradient(y, client) - own[position] + c)
            steps.append(along)
            renewed = gradient(x, client) if option == "I" else own[position] - c + (x - y) / (epochs * 0.1)
            moves.append(y - x)
            changes.append(renewed - own[position])
            own[position] = renewed
        there = counts[[position for position, _ in work]]
        x = x + 0.7 * torch.tensordot(there / there.sum(), torch.stack(moves), 1)
        c = c + torch.tensordot(there / counts.sum(), torch.stack(changes), 1)
        fused = train_round(site, tmp_path, number, weights, state, work)
        received, weights, state = weights, fused.weights, fused.state
        flat = torch.cat([weights["logits.weight"], weights["logits.bias"][:, None]], 1)
        assert torch.allclose(flat.double(), x, atol=2e-6)
        flat = torch.cat([state["control/logits.weight"], state["control/logits.bias"][:, None]], 1)
        assert torch.allclose(flat, c, atol=2e-6)
        folder = tmp_path / f"{number:04d}"
        sent, there = open_tensors(folder / CLIENTS), (folder / CORRECTIONS).exists()
        assert there == (number > 1)  # in round 1 there is nothing to correct with
        if there:
            moved = open_tensors(folder / CORRECTIONS)
            for slot, along in enumerate(steps):  # what is left of an update is the client's own gradients
                left = {name: sent[name][slot] - received[name] - moved[name][slot] for name in moved}
                flat = torch.cat([left["logits.weight"], left["logits.bias"][:, None]], 1)
                assert torch.allclose(flat.double(), along, atol=2e-6)
                assert not moved["unused.weight"].any()
            assert max(moved["logits.weight"].abs().amax((1, 2)).tolist()) > 0.01
        rows = open_tensors(folder / CONTROLS)
        for position in range(4):
            row = torch.cat([rows["logits.weight"][position], rows["logits.bias"][position][:, None]], 1)
            assert torch.allclose(row.double(), own[position], atol=2e-6)
        for name in rows:  # the server's is the mean of all clients'
            mean = torch.tensordot(counts / counts.sum(), rows[name].double(), 1)
            assert torch.allclose(mean, state[f"control/{name}"], atol=1e-9)
        # What the loss does not reach neither moves nor has a control variate.
        assert not rows["unused.weight"].any()
        assert torch.equal(weights["unused.weight"], model.state_dict()["unused.weight"])
        assert not fused.decomposition.unsent
    assert c.abs().max() > 0.01


@pytest.mark.slow
def test_a_federation_traced_by_its_gradients(tmp_path: Path) -> None:
    """As if clients had returned what their gradients made, and somebody else what the control variates did."""
    changes: dict[str, Any] = {"fusion": Scaffold(), "rounds": 3, "clients_per_round": 3, "keep": "all", "workers": 1}
    config, data, model = make_config(momentum=0.0, learning_rate=0.02, **changes), make_data(), make_model()
    with federated_rounds(config, data, model, tmp_path, {1, 2, 3}, torch.device("cpu"), lambda event: None) as rounds:
        first, second, third = rounds
    assert dict(first.corrections()) == {}
    positions = {client.id: position for position, client in enumerate(data.clients)}
    inputs = data.evaluated.inputs[:6]
    for stored, before in ((second, first), (third, second)):
        own = open_tensors(before.folder / CONTROLS)
        left = {name: stack.clone() for name, stack in stored.client_stack().items()}
        control = {name: torch.zeros(value.shape[1:]) for name, value in own.items()}
        for slot, client in enumerate(stored.clients):
            rates = 0.02 * local_steps(stored.examples[slot], config.federation)
            for name in own:
                moved = -rates * (stored.server_state()[f"control/{name}"] - own[name][positions[client]]).float()
                left[name][slot] -= moved
                control[name] += moved / 3  # SCAFFOLD counts clients, not examples
        parts = replace(stored.decomposition, unsent={"other": control})
        expected_round = RoundInMemory(stored.clients, parts, stored.weights(), stored.previous(), left)
        model.load_state_dict(dict(stored.weights()))
        answer = trace(model, inputs, stored, provenance_preset("gradients"))
        expected = trace(model, inputs, expected_round, provenance_preset("provfl"))
        assert np.allclose(answer.values, expected.values, rtol=1e-3, atol=1e-4 * np.abs(expected.values).max())
        assert set(answer.rows) == {"control"}
        assert np.allclose(answer.rows["control"], expected.rows["other"], rtol=1e-3, atol=1e-5)
        assert answer.residuals.max() < 1e-4
        whole = trace(model, inputs, stored, provenance_preset("provfl"))
        assert not whole.rows
        assert np.abs(answer.values - whole.values).max() > 0.05 * np.abs(whole.values).max()


def test_with_no_control_yet_and_one_step_it_is_the_unweighted_mean(tmp_path: Path) -> None:
    data, model = make_data(), linear()
    settings = plain(local_epochs=1)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    trained = []
    for client in data.clients:
        own = linear()
        train_client(own, client, settings, FedAvg(), 0, 1)
        trained.append(own.state_dict())
    results = []
    for option in ("I", "II"):
        (tmp_path / option).mkdir()
        site = site_of(data, linear(), settings, Scaffold(option))
        results.append(train_round(site, tmp_path / option, 1, weights, {}, [(position, 1) for position in range(4)]))
    for name in weights:
        mean = torch.stack([own[name] for own in trained]).double().mean(0)
        assert all(torch.allclose(fused.weights[name].double(), mean, atol=1e-7) for fused in results), name
    # The one step's gradient is the one at the model received: both options are one.
    for name in ("logits.weight", "logits.bias"):
        first, other = (fused.state[f"control/{name}"] for fused in results)
        assert torch.allclose(first, other, atol=1e-6)
        assert first.abs().max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("option", ["I", "II"])
def test_workers_and_this_process_write_the_same_bytes(option: str, tmp_path: Path) -> None:
    """Batch normalisation, dropout, several steps: buffers have no control variates."""
    data, settings = make_data(clients=3), plain(batch_size=16, warmup_steps=3, clip_norm=0.5)
    for workers in (0, 2):
        rounds = tmp_path / str(workers)
        rounds.mkdir()
        model = make_model()
        site = site_of(data, model, settings, Scaffold(option))
        weights: Mapping[str, Tensor] = {name: value.clone() for name, value in model.state_dict().items()}
        state: Mapping[str, Tensor] = {}
        for number in (1, 2):
            fused = train_round(site, rounds, number, weights, state, [(0, 3), (2, 1)], workers)
            weights, state = fused.weights, fused.state
    for folder in ("0001", "0002"):
        for file in (CONTROLS, CLIENTS, NEXT_STATE):
            assert (tmp_path / "0" / folder / file).read_bytes() == (tmp_path / "2" / folder / file).read_bytes()
    rows = open_tensors(tmp_path / "0" / "0002" / CONTROLS)
    assert set(rows) == {name for name, _ in make_model().named_parameters()}
    assert not rows["logits.weight"][1].any()  # it never took part
    assert rows["logits.weight"][0].any()


def test_the_gradient_over_the_share_leaves_the_model_as_it_was() -> None:
    model, client, settings = make_model(), make_data().clients[1], plain(batch_size=16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = full_gradient(model, client, settings, 0, 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [gradient.shape for gradient in gradients] == [weight.shape for weight in model.parameters()]
    assert all(weight.grad is None for weight in model.parameters())
    # Without batch statistics and dropout, batches make no difference.
    small, large = (full_gradient(linear(), client, replace(settings, batch_size=size), 0, 1) for size in (7, 100))
    for gradient, other in zip(small, large, strict=True):
        assert torch.allclose(gradient, other, atol=1e-6)


def test_a_weight_reached_elsewhere_is_corrected_here_too() -> None:
    model, start = linear(), linear()
    settings = plain()
    correction = [torch.zeros_like(weight) for weight in model.parameters()]
    correction[2] = torch.ones(2, 2)  # of the layer that the loss does not reach
    train_client(model, make_data().clients[0], settings, Scaffold(), 0, 1, correction=correction)
    moved = model.get_parameter("unused.weight") - start.get_parameter("unused.weight")
    assert torch.allclose(moved, torch.full((2, 2), -0.3))
    assert torch.equal(model.get_parameter("unused.bias"), start.get_parameter("unused.bias"))


def test_fewer_epochs_are_fewer_passes() -> None:
    """As a federation of so few epochs would do."""
    client, settings = make_data().clients[0], plain(batch_size=16)
    less, few = make_model(), make_model()
    train_client(less, client, settings, FedAvg(), 0, 1, epochs=2)
    train_client(few, client, replace(settings, local_epochs=2), FedAvg(), 0, 1)
    assert all(torch.equal(value, few.state_dict()[name]) for name, value in less.state_dict().items())
    assert local_steps(50, settings) == 12
    assert local_steps(50, settings, 2) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adam"}, "federation.optimizer=adam: fusion=scaffold needs plain SGD"),
        ({"momentum": 0.9}, "federation.momentum=0.9: fusion=scaffold needs plain SGD"),
        ({"stragglers": 0.2}, "federation.straggler_work=partial, or federation.stragglers=0"),
    ],
)
def test_what_it_is_not_defined_for_is_refused(changes: dict[str, Any], message: str) -> None:
    Scaffold().check(plain(stragglers=0.2, straggler_work="partial"))
    with pytest.raises(InputError, match=message):
        Scaffold().check(plain(**changes))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"fusion.option=III"):
        Scaffold(option="III")
    with pytest.raises(InputError, match=r"fusion.global_learning_rate=0: must be above 0"):
        Scaffold(global_learning_rate=0)


def test_its_option_brings_plain_sgd() -> None:
    """Also where the model brings another optimizer; and participation is set on the command line."""
    slow = ["federation.stragglers=0.3", "federation.straggler_work=partial", "federation.local_epochs=2"]
    overrides = ["fusion=scaffold", "model=gpt_mini", "dataset=languages", "federation.joins={3: 5}", *slow]
    config = validated(compose_jobs(overrides)[0][1])
    assert (config.federation.optimizer, config.federation.momentum) == ("sgd", 0.0)
    assert config.fusion == Scaffold("II", 1.0)
    assert config.federation.joins == {3: 5}
    assert config.federation.stragglers == 0.3
