"""Attribution methods: each against its definition worked out another way, and all of them through a run's tracing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from provfl_cli import attribution
from provfl_cli.attribution.cosine import Cosine
from provfl_cli.attribution.data_size import DataSize
from provfl_cli.attribution.feddebug import GENERATORS, FedDebug, active_neurons, leave_one_out_votes
from provfl_cli.attribution.leave_one_out import LeaveOneOut
from provfl_cli.attribution.method import AttributionResult, Case
from provfl_cli.attribution.norms import update_norms
from provfl_cli.attribution.provenance import Traced, traced
from provfl_cli.attribution.random import Random
from provfl_cli.attribution.shapley import Shapley
from provfl_cli.attribution.static_weights import StaticWeights
from provfl_cli.config import schema, tree
from provfl_cli.config.compose import compose_jobs, validated
from provfl_cli.config.validate import provenance_preset
from provfl_cli.data.federated import Texts
from provfl_cli.errors import InputError, RunError
from provfl_cli.evaluation.metrics import localization
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.fuse import Fusion
from provfl_cli.provenance.targets import target_value
from provfl_cli.provenance.tracing import trace
from provfl_cli.reporting.tables import cost_table
from provfl_cli.run.tracing import TracedRound
from provfl_cli.store.rounds import Round

from .cases import double_case
from .federations import make_config, make_data, make_model
from .lineages import Work, composed_fusion, perturbed, play
from .traced_rounds import traced_round

CPU = torch.device("cpu")


def stored_rounds(folder: Path, fusion: Fusion, model: nn.Module) -> list[Round]:
    """Two rounds; in the second, the last client is late and one of the others is clipped."""
    start = model.state_dict()
    first = Work({k: (10 + k, perturbed(start, 0.05, k)) for k in range(5)})
    sent = {k: (20 + 3 * k, perturbed(start, 0.03 * (k + 1), 10 + k)) for k in range(5)}
    second = Work(sent, {4: perturbed(start, 0.02, 77)}, {1: 0.5})
    return play(folder, fusion, start, [first, second])


def network(kind: type[nn.Module] = nn.ReLU) -> nn.Module:
    """8x8 pictures to 10 classes, one hidden layer."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), kind(), nn.Linear(12, 10))


def make_case(stored: Round, model: nn.Module, count: int = 6, **changed: Any) -> Case:
    """Random pictures in float32, explained as classes 0, 1, 2, …"""
    inputs = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    return double_case(stored, model, count, **{"inputs": inputs, "numbers": np.arange(100, 100 + count), **changed})


def updates(stored: Round, names: list[str], weighted: bool) -> list[Tensor]:
    """`A_k o (W_k - V_k)` of each parameter, `[clients, *shape]`, written out; without `q_k` unless weighted."""
    parts, tensors = stored.decomposition, []
    for name in names:
        start = torch.stack([stored.previous()[name]] * len(stored.clients)).double()
        for position, base in stored.bases().items():
            start[position] = base[name].double()
        moved = stored.client_stack()[name].double() - start
        if name in parts.multipliers:
            factor = parts.multipliers[name].rows(slice(None), tuple(moved.shape[1:]))
            moved *= factor if moved.dim() > 1 else factor.flatten()
        shares = parts.example_weights.view(-1, *(1,) * (moved.dim() - 1))
        tensors.append(moved * shares if weighted else moved)
    return tensors


FUSIONS = ("fedavg", "fedadam", "median", "krum")


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("weighted", [True, False])
def test_static_weights_are_the_norms_of_the_updates_as_fused(
    fusion: str, weighted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provfl_cli.fusion.updates.BLOCK_NUMBERS", 100)  # several blocks of each tensor
    model = network()
    stored = stored_rounds(tmp_path, composed_fusion(fusion), model)[-1]
    names = [name for name, _ in model.named_parameters()]
    expected = torch.cat([update.flatten(1) for update in updates(stored, names, weighted)], 1).norm(dim=1)
    assert torch.allclose(update_norms(stored, names, weighted), expected, rtol=1e-12)
    if weighted:
        attributed = StaticWeights().attribute(make_case(stored, model))
        assert attributed.values == pytest.approx(np.tile(expected.numpy(), (6, 1)))
        assert attributed.candidates.sum() == (1 if fusion == "krum" else 5)


def test_a_parameter_without_dimensions_counts(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.flatten(1)[:, :10] * self.scale

    model = Scaled()
    stored = stored_rounds(tmp_path, FedAvg(), model)[-1]
    (moved,) = updates(stored, ["scale"], weighted=False)
    assert torch.allclose(update_norms(stored, ["scale"], weighted=False), moved.abs())


def test_data_size_is_the_number_of_examples(tmp_path: Path) -> None:
    model = network()
    attributed = DataSize().attribute(make_case(stored_rounds(tmp_path, FedAvg(), model)[-1], model))
    assert attributed.values.tolist() == [[20, 23, 26, 29, 32]] * 6


@pytest.mark.parametrize("fusion", FUSIONS)
def test_cosine_times_the_gradients_length_is_the_projection_on_it(fusion: str, tmp_path: Path) -> None:
    model = network().double()
    stored = stored_rounds(tmp_path, composed_fusion(fusion), model)[-1]
    case = make_case(stored, model)
    case = replace(case, inputs=case.inputs.double())
    attributed = Cosine().attribute(case)
    names = [name for name, _ in model.named_parameters()]
    moved = torch.cat([update.flatten(1) for update in updates(stored, names, weighted=False)], 1)
    model.load_state_dict(dict(stored.weights()))
    for row, picture in enumerate(case.inputs):
        value = target_value("centred", model(picture[None]), torch.tensor([row]))
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(value.sum(), list(model.parameters()))])
        expected = torch.cosine_similarity(moved, gradient[None]) * gradient.norm()
        used = attributed.candidates
        assert attributed.values[row, used] == pytest.approx(expected.numpy()[used], rel=1e-6, abs=1e-9)
    assert attributed.target == "centred"


def test_a_client_that_sent_nothing_new_has_cosine_0(tmp_path: Path) -> None:
    model = network()
    start = model.state_dict()
    (stored,) = play(tmp_path, FedAvg(), start, [Work({0: (9, start), 1: (9, perturbed(start, 0.1, 1))})])
    values = Cosine().attribute(make_case(stored, model)).values
    assert (values[:, 0] == 0).all()
    assert (values[:, 1] != 0).all()


def test_random_depends_on_seed_round_and_input_alone(tmp_path: Path) -> None:
    model = network()
    first, second = stored_rounds(tmp_path, FedAvg(), model)
    whole = Random().attribute(make_case(second, model)).values
    assert ((whole >= 0) & (whole < 1)).all()
    fewer = make_case(second, model, count=2, numbers=np.array([103, 101]))
    assert (Random().attribute(fewer).values == whole[[3, 1]]).all()
    assert (Random().attribute(make_case(second, model, seed=1)).values != whole).all()
    assert (Random().attribute(make_case(first, model)).values != whole).all()
    assert len(np.unique(whole.argmax(1))) > 1


def test_last_layer_is_the_last_layers_part_of_the_whole_trace(tmp_path: Path) -> None:
    model = make_model()
    work = Work({k: (10, perturbed(model.state_dict(), 0.01, k)) for k in range(3)})
    (stored,) = play(tmp_path, FedAvg(), model.state_dict(), [work])
    case = make_case(stored, model)
    attributed = Traced("last_layer", layers="last").attribute(case)
    classes = torch.from_numpy(case.classes)
    whole = trace(model, case.inputs, stored, case.provenance, classes, layer_sample=6)
    (last,) = (layer for layer in whole.layers if layer.layer == "logits")
    assert attributed.values == pytest.approx(last.contributions, rel=1e-5)
    assert attributed.values != pytest.approx(whole.values, rel=0.1)


def test_a_target_of_its_own(tmp_path: Path) -> None:
    model = make_model()
    work = Work({k: (10, perturbed(model.state_dict(), 0.01, k)) for k in range(3)})
    (stored,) = play(tmp_path, FedAvg(), model.state_dict(), [work])
    case = make_case(stored, model)
    attributed = Traced("provfl_margin", preset="provfl", target="margin").attribute(case)
    classes = torch.from_numpy(case.classes)
    expected = trace(model, case.inputs, stored, replace(provenance_preset("provfl"), target="margin"), classes)
    assert attributed.target == "margin"
    assert attributed.values == pytest.approx(expected.values, rel=1e-6)
    with pytest.raises(InputError, match=r"attribution\.own\.target=mse"):
        Traced("own", target="mse")


def test_layers_last_needs_a_layer_that_counts(tmp_path: Path) -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(64, 10))

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.flatten(1) @ self.weight

    model = Bare()
    (stored,) = play(tmp_path, FedAvg(), model.state_dict(), [Work({0: (9, perturbed(model.state_dict(), 0.1, 1))})])
    with pytest.raises(InputError, match="no Linear, Conv"):
        Traced("last_layer", layers="last").attribute(make_case(stored, model))


@pytest.mark.parametrize("name", ["provfl", "tracefl", "equations", "faithful", "gradients"])
def test_a_preset_as_a_method_gives_what_the_preset_gives(name: str, tmp_path: Path) -> None:
    model = network(nn.Tanh)
    stored = stored_rounds(tmp_path, FedAvg(), model)[-1]
    case = make_case(stored, model, provenance=replace(provenance_preset("faithful"), threshold=0.3))
    attributed = Traced(name, preset=name).attribute(case)
    direct = trace(model, case.inputs, stored, provenance_preset(name), torch.from_numpy(case.classes))
    assert (attributed.values == direct.values).all()
    assert attributed.target == provenance_preset(name).target


# -- a share of the neurons ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("neurons", ["gradient", "random"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_all_of_the_neurons_are_no_selection(neurons: str, activation: type[nn.Module], tmp_path: Path) -> None:
    model = network(activation)
    case = make_case(stored_rounds(tmp_path, FedAvg(), model)[-1], model)
    attributed = Traced("some", neurons=neurons, fraction=1.0).attribute(case)
    assert attributed.values == pytest.approx(traced(case, case.provenance).values, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("threshold", [None, 0.0])
def test_gradient_neurons_are_those_with_the_largest_gradient_times_activation(
    threshold: float | None, tmp_path: Path
) -> None:
    model = network(nn.Tanh).double()
    stored = stored_rounds(tmp_path, FedAvg(), model)[-1]
    settings = replace(provenance_preset("provfl"), threshold=threshold, client_weighting="fusion")
    case = make_case(stored, model, provenance=settings)
    case = replace(case, inputs=case.inputs.double())
    values = Traced("gradient_neurons", neurons="gradient", fraction=0.25).attribute(case).values
    model.load_state_dict(dict(stored.weights()))
    names = [name for name, _ in model.named_parameters()]
    w1, b1, w2, b2 = updates(stored, names, weighted=True)
    for row, picture in enumerate(case.inputs):
        z = picture.flatten()
        a = model[1](z).detach().requires_grad_()  # type: ignore[operator, index]
        hidden = torch.tanh(a)
        logits = model[3](hidden)  # type: ignore[operator, index]
        value = target_value("centred", logits[None], torch.tensor([row])).sum()
        g, h = torch.autograd.grad(value, [a, logits])
        if threshold is not None:
            g = g * (hidden > threshold)
        chosen, chosen_logits = torch.zeros(12), torch.zeros(10)
        chosen[(g * a).abs().topk(3).indices] = 1  # a quarter of 12
        chosen_logits[(h * logits).abs().topk(2).indices] = 1  # of 10, rounded
        g, h = g * chosen, h * chosen_logits
        expected = 0.9 * (torch.einsum("koi,o,i->k", w1, g, z) + b1 @ g)
        expected = expected + torch.einsum("koi,o,i->k", w2, h, hidden.detach()) + b2 @ h
        assert values[row] == pytest.approx(expected.detach().numpy(), rel=1e-8)


def test_random_neurons_do_not_depend_on_the_batch_but_on_the_seed(tmp_path: Path) -> None:
    model = make_model()
    work = Work({k: (10, perturbed(model.state_dict(), 0.01, k)) for k in range(3)})
    (stored,) = play(tmp_path, FedAvg(), model.state_dict(), [work])
    method = Traced("random_neurons", neurons="random", fraction=0.2)
    whole = method.attribute(make_case(stored, model)).values
    singly = method.attribute(make_case(stored, model, provenance=replace(provenance_preset("provfl"), batch_size=1)))
    assert singly.values == pytest.approx(whole, rel=1e-3, abs=1e-5)
    assert method.attribute(make_case(stored, model, seed=1)).values != pytest.approx(whole, rel=0.1)


def test_the_neurons_that_take_part_are_counted(tmp_path: Path) -> None:
    model = network(nn.Tanh)
    case = make_case(stored_rounds(tmp_path, FedAvg(), model)[-1], model)
    for neurons in ("gradient", "random"):
        settings = replace(case.provenance, threshold=None, neurons=neurons, neuron_fraction=0.25)
        result = trace(model, case.inputs, case.stored, settings, layer_sample=6)
        assert {layer.layer: set(layer.active.tolist()) for layer in result.layers} == {"1": {3}, "3": {2}}


# -- FedDebug ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clients", [2, 3, 5])
def test_the_vote_goes_to_the_client_whose_removal_leaves_most_in_common(clients: int) -> None:
    active = torch.rand(clients, 40, 12, generator=torch.Generator().manual_seed(clients)) < 0.8
    votes = leave_one_out_votes(iter(active))
    for row in range(40):
        common = [
            int(active[list(rest), row].all(0).sum())
            for rest in reversed(list(combinations(range(clients), clients - 1)))  # without client 0, without 1, …
        ]
        best = np.array(common) == max(common)
        assert votes[row].tolist() == pytest.approx((best / best.sum()).tolist())
    assert (votes.max(1).values < 1).any(), "some votes are shared"
    assert (votes.max(1).values == 1).any(), "and some are not"


class Functional(nn.Module):
    """Activation functions of every kind: a module used twice, a function, one in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.activation = nn.GELU()
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        a = self.activation(self.first(inputs))
        b = torch.nn.functional.relu(self.second(a))
        c = self.activation(self.second(b))
        d = torch.relu_(c - 0.5)
        self.seen = [a, b, c, d]
        return self.third(d)


def test_active_neurons_are_seen_behind_every_activation_function() -> None:
    torch.manual_seed(0)
    model, inputs = Functional(), torch.randn(7, 6)
    with torch.no_grad():
        active = active_neurons(model, inputs, 0.1)
    expected = torch.cat([output > 0.1 for output in model.seen], 1)
    assert (active == expected).all()
    assert 0 < active.float().mean() < 1
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_without_activation_functions_the_logits_are_the_neurons() -> None:
    model, inputs = nn.Linear(6, 4), torch.randn(7, 6)
    assert (active_neurons(model, inputs, 0.0) == (model(inputs) > 0)).all()


def test_feddebug_finds_the_client_whose_model_is_unlike_the_others(tmp_path: Path) -> None:
    model = network()
    start = model.state_dict()
    sent = {k: (10, perturbed(start, 0.001, k)) for k in range(5)}
    sent[3] = (10, {name: -tensor for name, tensor in start.items()})
    (stored,) = play(tmp_path, FedAvg(), start, [Work(sent)])
    case = make_case(stored, model)
    for generator in GENERATORS:
        attributed = FedDebug(generator=generator, inputs=5, threshold=0.0).attribute(case)
        assert attributed.values[0].argmax() == 3, generator
        assert attributed.values[:, 3] == pytest.approx(1.0)
        assert attributed.values.sum(1) == pytest.approx(1.0)
        assert (attributed.values == attributed.values[0]).all()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, stored.weights()[name]), "the global model is back in place"


class Reader(nn.Module):
    """Tokens to classes; remembers what it read."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.logits = nn.Embedding(20, 6), nn.Linear(6, 8), nn.Linear(8, 3)
        self.read: list[Tensor] = []

    def forward(self, tokens: Tensor) -> Tensor:
        self.read.append(tokens)
        return self.logits(torch.relu(self.hidden(self.embedding(tokens))).mean(1))


def test_feddebug_generates_texts_of_any_tokens_but_padding(tmp_path: Path) -> None:
    model = Reader()
    start = model.state_dict()
    sent = {k: (10, perturbed(start, 0.001, k)) for k in range(4)}
    sent[1] = (10, perturbed(start, 2.0, 9))
    (stored,) = play(tmp_path, FedAvg(), start, [Work(sent)])
    data = replace(make_data(clients=1), form=Texts(vocabulary=20, max_tokens=9, padding=4))
    case = make_case(stored, model, inputs=torch.zeros(6, 9, dtype=torch.int64), form=data.form)
    attributed = FedDebug(inputs=30).attribute(case)
    assert attributed.values[0].argmax() == 1
    tokens = torch.cat(model.read)
    assert tokens.shape == (4 * 30, 9)
    assert set(tokens.unique().tolist()) == set(range(20)) - {4}
    with pytest.raises(RunError, match="needs to know the tokens"):
        FedDebug().attribute(replace(case, form=None))


# -- configuration and run -----------------------------------------------------------------------------------------


def methods(*argv: str) -> list[Any]:
    """The methods of a command line that asks for one job."""
    ((_, cfg),) = compose_jobs(argv)
    return list(validated(cfg).attribution)


@pytest.mark.slow
def test_methods_are_chosen_by_a_list_and_called_by_their_own_names(workspace: Path) -> None:
    names = tree.options("attribution")
    assert all(tree.summary(tree.option_file("attribution", name)) for name in names)
    names = [
        name for name in names if not name.startswith("lineage_")
    ]  # needs what `gradients` cannot: test_lineage_methods
    chosen = methods(
        f"attribution=[{','.join(reversed(names))}]", "attribution.feddebug.threshold=0.5", "store.keep=all"
    )
    assert [method.name for method in chosen] == names[::-1]
    by_name = {method.name: method for method in chosen}
    assert by_name["feddebug"] == FedDebug(threshold=0.5)
    assert by_name["random_neurons"] == Traced("random_neurons", neurons="random", fraction=0.1)
    assert by_name["last_layer"] == Traced("last_layer", layers="last")


@pytest.mark.slow
def test_methods_can_be_swept_over(workspace: Path) -> None:
    assert methods() == []
    assert methods("attribution=cosine") == [Cosine()]
    jobs = compose_jobs(["-m", "attribution=[random],[cosine,random]"])
    assert [[method.name for method in validated(cfg).attribution] for _, cfg in jobs] == [
        ["random"],
        ["cosine", "random"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["attribution=[rnadom]"], "attribution=rnadom: did you mean random"),
        (["attribution.feddebug.inputs=3"], r"feddebug is not among the methods: attribution=\[feddebug\]"),
        (["attribution=[random]", "attribution.feddebug.inputs=3"], "feddebug is not among the methods"),
        (["attribution=[feddebug]", "attribution.feddebug.inputt=3"], "did you mean attribution.feddebug.inputs?"),
        (["attribution=[feddebug]", "attribution.feddebug.threshold=low"], "threshold=low: must be a number"),
        (["attribution=[provfl]", "threshold=0.5"], "traces by that name with other settings"),
        (["+attribution.random=3"], "attribution.random: needs _target_"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(argv: list[str], message: str, workspace: Path) -> None:
    with pytest.raises(InputError, match=message) as raised:
        methods(*argv)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FedDebug(inputs=0), "attribution.feddebug.inputs=0: must be 1"),
        (lambda: FedDebug(generator="normall"), "generator=normall: did you mean normal"),
        (lambda: FedDebug(threshold=float("nan")), "threshold=nan"),
        (lambda: Traced("some", neurons="best"), "attribution.some.neurons=best: accepted: all"),
        (lambda: Traced("some", fraction=0.0), "fraction=0.0: must be above 0"),
        (lambda: Traced("some", preset="fatihful"), "did you mean faithful"),
        (lambda: replace(provenance_preset("provfl"), layers="first"), "all, last, or a list"),
        (lambda: replace(provenance_preset("provfl"), neurons="best"), "provenance.neurons=best"),
        (lambda: replace(provenance_preset("provfl"), neuron_fraction=1.5), "neuron_fraction=1.5"),
    ],
)
def test_a_setting_out_of_range_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_name_that_the_run_traces_by_must_mean_the_same() -> None:
    assert make_config(attribution=(Traced("provfl", preset="provfl"), Traced("tracefl", preset="tracefl")))
    own = replace(provenance_preset("provfl"), threshold=0.5)
    with pytest.raises(InputError, match="traces by that name with other settings"):
        make_config(provenance=own, attribution=(Traced("provfl", preset="provfl"),))
    assert make_config(provenance=own, attribution=(Traced("faithful", preset="faithful"),))
    assert make_config(provenance=replace(own, threshold=0.0, rounds="all"), attribution=(Traced("provfl", "provfl"),))


@pytest.mark.slow
def test_methods_are_light_to_import() -> None:
    files = Path(attribution.__file__).parent.glob("[!_]*.py")
    names = ", ".join(f"provfl_cli.attribution.{file.stem}" for file in files)
    code = f"import sys, {names}; sys.exit('torch._C' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@dataclass(frozen=True)
class Estimated:
    """A method with standard errors and predictions without clients but the last, that ranks only some."""

    name: str
    candidates: tuple[bool, ...]

    def check(self, run: Any) -> None:
        """Nothing."""

    def attribute(self, case: Case) -> AttributionResult:
        """The inputs' numbers, and errors."""
        values = case.numbers[:, None] + np.arange(len(case.stored.clients), dtype=np.float64)
        without = np.tile([8, 9, -1], (len(values), 1))
        note = f"{self.name} roughly"
        return AttributionResult(values, np.array(self.candidates), 1.5, errors=values / 10, note=note, without=without)


@dataclass(frozen=True)
class Tired:
    """A method that needs 9, 1 and 2 seconds, by its own clock, the first three times."""

    name: str = "tired"
    times: Iterator[float] = field(default_factory=lambda: iter((9.0, 1.0, 2.0)))

    def check(self, run: Any) -> None:
        """Nothing."""

    def attribute(self, case: Case) -> AttributionResult:
        """Nobody did anything."""
        shape = len(case.numbers), len(case.stored.clients)
        return AttributionResult(np.zeros(shape), np.ones(shape[1], dtype=bool), next(self.times))


def test_asked_several_times_for_the_clock_a_method_says_the_same(tmp_path: Path) -> None:
    data, model = make_data(clients=3, test=60), make_model()
    work = Work({c.id: (len(c.labels), perturbed(model.state_dict(), 0.05, c.id)) for c in data.clients})
    (stored,) = play(tmp_path, FedAvg(), model.state_dict(), [work])
    presets = [provenance_preset("provfl")]

    def asked(repeats: int) -> TracedRound:
        wanted = schema.Evaluation("all", 20, 1, repeats)
        config = make_config(attribution=(Random(), Tired()), evaluation=wanted)
        return traced_round(config, presets, data, model, stored)

    once, thrice = asked(1), asked(3)
    pd.testing.assert_frame_equal(once.contributions, thrice.contributions)
    pd.testing.assert_frame_equal(once.layers, thrice.layers)
    assert once.method_seconds["tired", "round"] == 9.0
    assert thrice.method_seconds["tired", "round"] == 2.0
    with pytest.raises(InputError, match=r"evaluation\.repeats=0: must be 1 or more"):
        schema.Evaluation("all", 20, 1, 0)


@pytest.mark.parametrize(
    "method",
    [Random(), Cosine(), StaticWeights(), DataSize(), FedDebug(inputs=1), LeaveOneOut("withhold"), Shapley("withhold"),
     Traced("faithful", preset="faithful")],
    ids=lambda method: method.name,
)  # fmt: skip
def test_what_a_method_says_it_took_is_less_than_what_passed(method: Any, tmp_path: Path) -> None:
    model = network()
    case = make_case(stored_rounds(tmp_path, FedAvg(), model)[-1], model, count=2)
    began = time.perf_counter()
    attributed = method.attribute(case)
    assert 0 < attributed.seconds <= time.perf_counter() - began


@pytest.mark.slow
def test_a_round_is_attributed_by_every_method_on_the_same_inputs(tmp_path: Path) -> None:
    data, model = make_data(clients=3, test=60), make_model()
    work = Work({c.id: (len(c.labels), perturbed(model.state_dict(), 0.05, c.id)) for c in data.clients})
    (stored,) = play(tmp_path, FedAvg(), model.state_dict(), [work])
    chosen = (
        Random(),
        Traced("faithful", preset="faithful"),
        Traced("provfl", preset="provfl"),
        Estimated("estimated", (True, False, True)),
        Estimated("helpless", (False, False, False)),
    )
    config = make_config(attribution=chosen, evaluation=replace(make_config().evaluation, inputs="all", min_examples=1))
    counts: Mapping[int, np.ndarray] = {client.id: client.label_counts for client in data.clients}
    presets = [provenance_preset("provfl"), provenance_preset("tracefl")]
    attributed = traced_round(config, presets, data, model, stored)
    frame = attributed.contributions
    assert list(dict.fromkeys(frame["method"])) == ["provfl", "tracefl", "random", "faithful", "estimated"]
    assert set(attributed.method_seconds) == {(name, "round") for name in frame["method"].unique()}
    assert attributed.method_seconds["estimated", "round"] == 1.5
    assert attributed.notes == ("estimated roughly", "helpless roughly", "helpless could rank nobody in round 1")
    clients = frame[frame["kind"] == "client"]
    inputs = clients.groupby("method")["input"].unique()
    assert all((numbers == inputs["provfl"]).all() for numbers in inputs)
    estimated = clients[clients["method"] == "estimated"]
    assert (estimated["error"] == estimated["contribution"] / 10).all()
    assert estimated["without"].astype(object).where(estimated["without"].notna(), None).tolist() == [8, 9, None] * 60
    assert (estimated["rank"].isna() == (estimated["client"] == 2)).all(), "the second of three clients is no candidate"
    assert clients.loc[clients["method"] == "random", ["error", "without"]].isna().all(axis=None)
    scores = localization(frame, counts, 1, data.faults).set_index("method")
    assert scores.loc["estimated", "clients"] == 2
    assert (scores["chance_accuracy"] > 0).all()
    assert scores.loc["random", "target"] == "none"
    table = cost_table(attributed.method_seconds, len(inputs["provfl"]))
    assert table.rows[-1] == ("estimated", "60", "1.50", "25.0")
