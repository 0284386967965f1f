"""What must hold for any trace, and what conservation must catch."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from provfl_cli.errors import InputError, RunError
from provfl_cli.fusion.decomposition import Decomposition, Multiplier, pack
from provfl_cli.provenance import batch, calls, factors, tracing
from provfl_cli.provenance.contributions import Contributions
from provfl_cli.provenance.probe import Verdict
from provfl_cli.provenance.rules import registry
from provfl_cli.provenance.state_dicts import RoundInMemory
from provfl_cli.provenance.tracing import trace, trace_targets

from .federations import federation, settings
from .networks import LeNet


@pytest.fixture
def lenet() -> tuple[nn.Module, RoundInMemory, Tensor]:
    torch.manual_seed(0)
    model = LeNet().double()
    source, _ = federation(model)
    return model, source, torch.randn(9, 1, 28, 28, dtype=torch.float64)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def test_threshold_zero_is_no_threshold_under_relu(lenet: tuple) -> None:
    model, source, inputs = lenet
    with_mask = trace(model, inputs, source, settings(threshold=0.0))
    without = trace(model, inputs, source, settings(threshold=None))
    assert with_mask.masked_layers
    assert np.array_equal(with_mask.values, without.values)


def test_a_threshold_above_every_output_leaves_only_layers_without_activation(lenet: tuple) -> None:
    model, source, inputs = lenet
    nothing = trace(model, inputs, source, settings(threshold=1e6), layer_sample=len(inputs))
    for layer in nothing.layers:
        assert (np.abs(layer.contributions).max() > 0) == (layer.layer == "fc3")
        assert (layer.active == (layer.neurons if layer.layer == "fc3" else 0)).all()


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_batch_size_changes_nothing(lenet: tuple, batch_size: int) -> None:
    model, source, inputs = lenet
    whole = trace(model, inputs, source, settings(threshold=0.1), layer_sample=5)
    parts = trace(model, inputs, source, settings(threshold=0.1, batch_size=batch_size), layer_sample=5)
    assert relative(parts.values, whole.values) < 1e-12
    assert [x.layer for x in parts.layers] == [x.layer for x in whole.layers]
    for a, b in zip(parts.layers, whole.layers, strict=True):
        assert a.contributions.shape == (5, 4)
        assert relative(a.contributions, b.contributions) < 1e-10
        assert (a.active == b.active).all()


def test_memory_bounds_the_batch_and_changes_nothing(lenet: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    model, source, few = lenet
    inputs = few.repeat(4, 1, 1, 1)
    sizes = []
    right = batch.trace_batch

    def counted(setup: batch.Setup, inputs: dict, *rest: object) -> list[batch.Sums]:
        sums = right(setup, inputs, *rest)  # type: ignore[arg-type]
        sizes.append(len(inputs[""]))
        return sums

    monkeypatch.setattr("provfl_cli.provenance.workers.work.trace_batch", counted)
    whole = trace(model, inputs, source, settings(threshold=0.1))
    parts = trace(model, inputs, source, settings(threshold=0.1, memory_mb=1), layer_sample=5)
    assert sizes[0] == len(inputs)
    assert max(sizes[1:]) < len(inputs)
    assert sum(sizes[1:]) == len(inputs)
    assert relative(parts.values, whole.values) < 1e-12


def test_targets_share_a_forward_pass(lenet: tuple) -> None:
    model, source, inputs = lenet
    classes_of_inputs = np.arange(len(inputs)) % 10
    chosen = settings(threshold=0.1, batch_size=4)
    asked = [("logit", None), ("centred", classes_of_inputs), ("margin", torch.from_numpy(classes_of_inputs))]
    together = trace_targets(model, inputs, source, chosen, asked, layer_sample=3)
    for (kind, classes), result in zip(asked, together, strict=True):
        alone = trace(model, inputs, source, dataclasses.replace(chosen, target=kind), classes, layer_sample=3)
        assert np.array_equal(result.values, alone.values)
        assert np.array_equal(result.predictions, alone.predictions)
        assert [x.layer for x in result.layers] == [x.layer for x in alone.layers]
        assert result.masked_layers == alone.masked_layers
        assert result.covered == 1.0


@pytest.mark.parametrize("of", ["weights", "updates"])
def test_float32_is_close_to_float64(of: str) -> None:
    torch.manual_seed(0)
    model = LeNet()
    source, _ = federation(model)
    inputs = torch.randn(6, 1, 28, 28)
    single = trace(model, inputs, source, settings(of=of))
    exact = dataclasses.replace(
        source,
        after={n: t.double() for n, t in source.after.items()},
        before={n: t.double() for n, t in source.before.items()},
        stacked={n: t.double() for n, t in source.stacked.items()},
    )
    after = {n: torch.tensordot(source.decomposition.example_weights, t, 1) for n, t in exact.stacked.items()}
    double = trace(model.double(), inputs.double(), dataclasses.replace(exact, after=after), settings(of=of))
    assert relative(single.values, double.values) < 1e-4
    assert single.residuals.max() < 1e-4


def test_layers_add_up(lenet: tuple) -> None:
    model, source, inputs = lenet
    result = trace(model, inputs, source, settings(), layer_sample=len(inputs))
    assert relative(sum(layer.contributions for layer in result.layers), result.values) < 1e-12
    assert [layer.layer for layer in result.layers] == ["conv1", "conv2", "fc1", "fc2", "fc3"]


@pytest.mark.parametrize("numbers", [1, 300, 1 << 24])
@pytest.mark.parametrize("outputs", [True, False])
def test_path_and_block_size_change_nothing(
    lenet: tuple, monkeypatch: pytest.MonkeyPatch, numbers: int, outputs: bool
) -> None:
    model, source, inputs = lenet
    usual = trace(model, inputs, source, settings()).values
    monkeypatch.setattr(factors, "BLOCK_NUMBERS", numbers)
    monkeypatch.setattr(factors, "outputs_are_cheaper", lambda *_: outputs)
    assert relative(trace(model, inputs, source, settings()).values, usual) < 1e-12


def permuted(source: RoundInMemory, order: list[int]) -> RoundInMemory:
    shares = source.decomposition.example_weights[order]
    stacked = {name: tensor[order] for name, tensor in source.stacked.items()}
    return dataclasses.replace(source, decomposition=Decomposition(shares), stacked=stacked, clients=order)


def test_small_parameters_in_many_products_change_nothing(lenet: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    model, source, inputs = lenet
    usual = trace(model, inputs, source, settings(), layer_sample=3)
    monkeypatch.setattr(batch, "POOL_BLOCK", 50)
    monkeypatch.setattr("provfl_cli.provenance.stack.JOINED_NUMBERS", 100)
    other = trace(model, inputs, source, settings(batch_size=4), layer_sample=3)
    assert relative(other.values, usual.values) < 1e-12
    for a, b in zip(other.layers, usual.layers, strict=True):
        assert relative(a.contributions, b.contributions) < 1e-10


def test_permuting_clients_permutes_the_result(lenet: tuple) -> None:
    model, source, inputs = lenet
    order = [2, 0, 3, 1]
    usual = trace(model, inputs, source, settings())
    other = trace(model, inputs, permuted(source, order), settings())
    assert other.clients == (2, 0, 3, 1)
    assert relative(other.values, usual.values[:, order]) < 1e-12


@pytest.mark.parametrize("of", ["weights", "updates"])
def test_client_weighting_scales_by_the_share_of_examples(lenet: tuple, of: str) -> None:
    model, source, inputs = lenet
    plain = trace(model, inputs, source, settings(of=of)).values
    fused = trace(model, inputs, source, settings(of=of, client_weighting="fusion")).values
    assert relative(fused, plain * np.array([0.1, 0.2, 0.3, 0.4])) < 1e-12


def test_covered_sum_is_the_gradient_along_the_weights(lenet: tuple) -> None:
    """Beta 1, no mask: all clients together give `sum <W, dy/dW>` over all parameters, by autograd."""
    model, source, inputs = lenet
    chosen = settings(of="weights", client_weighting="fusion", layer_decay=1.0, target="logit")
    result = trace(model, inputs, source, chosen)
    for b in range(len(inputs)):
        logits = model(inputs[b : b + 1])
        gradients = torch.autograd.grad(logits.max(), list(model.parameters()))
        whole = sum(float((p.detach() * g).sum()) for p, g in zip(model.parameters(), gradients, strict=True))
        assert result.values[b].sum() == pytest.approx(whole, rel=1e-9)


def test_moving_one_client_moves_its_contribution_alone(lenet: tuple) -> None:
    """With the global model frozen, `T_k` is linear in `W_k`: twice the weights, twice the contribution."""
    model, source, inputs = lenet
    usual = trace(model, inputs, source, settings(of="weights")).values
    stacked = {n: t * torch.tensor([1, 2, 1, 1]).view(-1, *(1,) * (t.dim() - 1)) for n, t in source.stacked.items()}
    parts = dict(source.decomposition.__dict__)
    # What the doubled client adds beyond its share is not sent by anybody: conservation is told so.
    share = float(parts["example_weights"][1])
    parts["unsent"] = {"noise": {n: -share * t[1] for n, t in source.stacked.items()}}
    moved = dataclasses.replace(source, stacked=stacked, decomposition=Decomposition(**parts))
    result = trace(model, inputs, moved, settings(of="weights"))
    assert relative(result.values, usual * np.array([1, 2, 1, 1])) < 1e-12
    assert relative(result.rows["noise"], -share * usual[:, 1]) < 1e-9


def general(model: nn.Module, seed: int = 5) -> RoundInMemory:
    """A made-up fusion with everything: elementwise masks, a scaled tensor, momentum and noise."""
    source, _ = federation(model)
    generator = torch.Generator().manual_seed(seed)
    shares = source.decomposition.example_weights
    multipliers: dict[str, Multiplier] = {}
    for position, (name, stack) in enumerate(source.stacked.items()):
        scalars = torch.rand(len(stack), generator=generator, dtype=torch.float64)
        shared = torch.rand(stack.shape[1:], generator=generator, dtype=torch.float64)
        masks = torch.randint(0, 2, (2, *stack.shape), generator=generator).bool()
        values = torch.rand(2, *stack.shape[1:], generator=generator, dtype=torch.float64)
        if position % 4 == 0:
            multipliers[name] = Multiplier(scalars, None, pack(masks.reshape(*masks.shape[:3], -1)), values)
        elif position % 4 == 1:
            multipliers[name] = Multiplier(scalars)
        elif position % 4 == 2:
            multipliers[name] = Multiplier(scalars, shared)
    unsent = {
        kind: {
            n: 0.01 * torch.randn(t.shape[1:], generator=generator, dtype=torch.float64)
            for n, t in source.stacked.items()
        }
        for kind in ("momentum", "noise")
    }
    after = {}
    for name, stack in source.stacked.items():
        m = multipliers.get(name, Multiplier(torch.ones(len(stack), dtype=torch.float64)))
        a = m.rows(slice(None), tuple(stack.shape[1:])) * shares.view(-1, *(1,) * (stack.dim() - 1))
        before = source.before[name]
        after[name] = before + unsent["momentum"][name] + unsent["noise"][name] + (a * (stack - before)).sum(0)
    # All but one parameter have control variates.
    corrected = {
        n: 0.1 * torch.randn(t.shape, generator=generator, dtype=torch.float64) for n, t in source.stacked.items()
    }
    del corrected["fc2.bias"]
    made_of = Decomposition(shares, multipliers, unsent)
    return dataclasses.replace(source, decomposition=made_of, after=after, corrected=corrected)


ROWS = {"weights": {"previous"}, "updates": set(), "gradients": {"control"}}


@pytest.mark.parametrize("of", ROWS)
def test_conservation_of_a_general_fusion(of: str) -> None:
    torch.manual_seed(0)
    model = LeNet().double()
    inputs = torch.randn(5, 1, 28, 28, dtype=torch.float64)
    result = trace(model, inputs, general(model), settings(of=of, client_weighting="fusion", threshold=0.05))
    assert result.residuals.max() < 1e-10
    assert set(result.rows) == {"momentum", "noise"} | ROWS[of]
    assert all(np.abs(row).min() > 0 for row in result.rows.values())


def test_gradients_are_updates_without_the_corrections() -> None:
    """As if clients had returned that much less, and somebody else had sent it."""
    torch.manual_seed(0)
    model = LeNet().double()
    inputs, source = torch.randn(5, 1, 28, 28, dtype=torch.float64), general(model)
    own = trace(model, inputs, source, settings(of="gradients"), layer_sample=5)
    less = {name: stack - source.corrected.get(name, 0) for name, stack in source.stacked.items()}
    parts, shares = source.decomposition, source.decomposition.example_weights
    control = {}
    for name, stack in source.corrected.items():
        multiplier = Multiplier(torch.ones(len(stack), dtype=torch.float64))
        share = parts.multipliers.get(name, multiplier).rows(slice(None), tuple(stack.shape[1:]))
        control[name] = (share * shares.view(-1, *(1,) * (stack.dim() - 1)) * stack).sum(0)
    parts = dataclasses.replace(parts, unsent={**parts.unsent, "other": control})
    expected = trace(
        model,
        inputs,
        dataclasses.replace(source, stacked=less, decomposition=parts, corrected={}),
        settings(),
        layer_sample=5,
    )
    assert relative(own.values, expected.values) < 1e-12
    assert relative(own.rows["control"], expected.rows["other"]) < 1e-12
    for layer, other in zip(own.layers, expected.layers, strict=True):
        assert relative(layer.contributions, other.contributions) < 1e-10
    whole = trace(model, inputs, source, settings())
    assert relative(own.values, whole.values) > 0.01
    without = dataclasses.replace(source, corrected={})
    assert np.array_equal(trace(model, inputs, without, settings(of="gradients")).values, whole.values)


def drop_bias(source: RoundInMemory) -> RoundInMemory:
    stacked = {n: torch.zeros_like(t) if n == "fc2.bias" else t for n, t in source.stacked.items()}
    return dataclasses.replace(source, stacked=stacked)


def drop_client(source: RoundInMemory) -> RoundInMemory:
    return dataclasses.replace(
        source,
        clients=range(3),
        stacked={n: t[:3] for n, t in source.stacked.items()},
        decomposition=Decomposition(source.decomposition.example_weights[:3]),
    )


def swap_shares(source: RoundInMemory) -> RoundInMemory:
    shares = source.decomposition.example_weights[[1, 0, 2, 3]]
    return dataclasses.replace(source, decomposition=Decomposition(shares))


def stale_global(source: RoundInMemory) -> RoundInMemory:
    return dataclasses.replace(source, after={n: t * 1.001 for n, t in source.after.items()})


@pytest.mark.parametrize("wrong", [drop_bias, drop_client, swap_shares, stale_global])
@pytest.mark.parametrize("of", ["weights", "updates"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_wrong_round_is_caught(wrong: object, of: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = LeNet().to(dtype)
    source, _ = federation(model)
    inputs = torch.randn(5, 1, 28, 28, dtype=dtype)
    trace(model, inputs, source, settings(of=of))
    with pytest.raises(RunError, match="conservation fails"):
        trace(model, inputs, wrong(source), settings(of=of))  # type: ignore[operator]


@pytest.mark.parametrize("of", ["weights", "updates"])
def test_a_wrong_layer_rule_is_caught(lenet: tuple, monkeypatch: pytest.MonkeyPatch, of: str) -> None:
    """A rule that forgets the bias, and one that forgets one position."""
    model, source, inputs = lenet
    right = registry.RULES[nn.functional.conv2d]

    def no_bias(call: calls.Call, g: Tensor) -> dict[str, factors.Factor]:
        factor = right.rule(call, g)
        return {**factor, "bias": factors.Dense(torch.zeros_like(factor["bias"].gradient))}

    def no_corner(call: calls.Call, g: Tensor) -> dict[str, factors.Factor]:
        factor = right.rule(call, g)
        left = factor["weight"].left.clone()
        left[..., 0] = 0
        return {**factor, "weight": dataclasses.replace(factor["weight"], left=left)}

    expected = trace(model, inputs, source, settings(of=of)).values
    trusted = Verdict(frozenset(), True, False, frozenset(), frozenset())
    for broken in (no_bias, no_corner):
        monkeypatch.setitem(registry.RULES, nn.functional.conv2d, dataclasses.replace(right, rule=broken))
        with monkeypatch.context() as unprobed:  # conservation notices
            unprobed.setattr(tracing, "probed", lambda model, inputs: trusted)
            unprobed.setattr(tracing, "probed_again", lambda model, inputs, verdict, parts: verdict)
            with pytest.raises(RunError, match="conservation fails"):
                trace(model, inputs, source, settings(of=of))
        answer = trace(
            copy.deepcopy(model), inputs, source, settings(of=of)
        )  # and what is known of the model beforehand
        assert np.allclose(answer.values, expected, atol=1e-6 * np.abs(expected).max())
        assert "by autograd" in answer.notes[0]


def test_a_second_call_that_is_missed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.layer(self.layer(x).relu()).relu())

    torch.manual_seed(0)
    model = Twice().double()
    source, _ = federation(model)
    inputs = torch.randn(4, 6, dtype=torch.float64)
    trace(model, inputs, source, settings())
    counted = iter(range(100))
    right = factors.contract
    monkeypatch.setattr(
        "provfl_cli.provenance.batch.contract",
        lambda *of: right(*of) * (0.0 if next(counted) in (2, 3) else 1.0),
    )
    with pytest.raises(RunError, match="conservation fails"):
        trace(model, inputs, source, settings(batch_size=1))


def test_clients_without_share_are_no_candidates(lenet: tuple) -> None:
    model, source, inputs = lenet
    shares = torch.tensor([0.5, 0.0, 0.25, 0.25], dtype=torch.float64)
    after = {n: torch.tensordot(shares, t, 1) for n, t in source.stacked.items()}
    result = trace(
        model, inputs, dataclasses.replace(source, decomposition=Decomposition(shares), after=after), settings()
    )
    assert result.candidates.tolist() == [True, False, True, True]


def test_chosen_layers(lenet: tuple) -> None:
    model, source, inputs = lenet
    result: Contributions = trace(model, inputs, source, settings(layers=["Linear"]), layer_sample=2)
    assert [layer.layer for layer in result.layers] == ["fc1", "fc2", "fc3"]
    with pytest.raises(InputError, match="only Conv2d, Linear"):
        trace(model, inputs, source, settings(layers=["LSTM"]))


def test_the_model_is_left_as_it_was(lenet: tuple) -> None:
    model, source, inputs = lenet
    model.train()
    model.fc1.weight.requires_grad_(False)
    before = inputs.clone()
    trace(model, inputs, source, settings(threshold=0.1))
    assert model.training
    assert model.conv1.training
    assert not model.fc1.weight.requires_grad
    assert model.fc2.weight.requires_grad
    assert torch.equal(inputs, before)
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_storage_is_summed_in_float32(stored: torch.dtype) -> None:
    torch.manual_seed(0)
    model = LeNet()
    source, _ = federation(model)
    half = {n: t.to(stored) for n, t in source.stacked.items()}
    same = {n: t.float() for n, t in half.items()}
    after = {n: torch.tensordot(source.decomposition.example_weights.float(), t, 1) for n, t in same.items()}
    inputs = torch.randn(4, 1, 28, 28)
    a = trace(model, inputs, dataclasses.replace(source, stacked=half, after=after), settings())
    b = trace(model, inputs, dataclasses.replace(source, stacked=same, after=after), settings())
    assert np.array_equal(a.values, b.values)
