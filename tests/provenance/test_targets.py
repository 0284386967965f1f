"""Targets of models that are no classifiers with a logit for each class."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from provfl_cli.errors import InputError, RunError
from provfl_cli.provenance import Contributions, from_state_dicts, preset, trace, trace_targets
from provfl_cli.provenance.settings import PRESETS

Target = Callable[[Tensor], Tensor]


def network(numbers: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, numbers)).eval()


class Giving(nn.Module):
    """A model that puts its output into something else."""

    def __init__(self, model: nn.Module, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model = model
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.model(x))


def federation(model: nn.Module) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    clients = [{n: t + 0.1 * torch.randn(t.shape, generator=generator) for n, t in before.items()} for _ in range(3)]
    return clients, before


def by_autograd(model: nn.Module, inputs: Tensor, target: Target) -> np.ndarray:
    """`q_k <W_k - W_prev, dy/dW>` for each input, with clients of 1, 2 and 3 examples."""
    clients, before = federation(model)
    shares = [1 / 6, 2 / 6, 3 / 6]
    model.load_state_dict({n: sum(q * c[n] for q, c in zip(shares, clients, strict=True)) for n in before})
    rows = []
    for row in range(len(inputs)):
        gradients = torch.autograd.grad(target(model(inputs[row : row + 1])), list(model.parameters()))
        named = dict(zip(dict(model.named_parameters()), gradients, strict=True))
        rows.append(
            [q * sum(float((named[n] * (c[n] - before[n])).sum()) for n in before)
             for q, c in zip(shares, clients, strict=True)]
        )  # fmt: skip
    model.load_state_dict(before)
    return np.array(rows)


def traced(model: nn.Module, inputs: Tensor, kind: str, wanted: Any = None) -> Contributions:
    clients, before = federation(model)
    source = from_state_dicts(clients, [1, 2, 3], before)
    return trace(copy.deepcopy(model), inputs, source, replace(preset("faithful"), target=kind), wanted)


INPUTS = torch.randn(5, 6, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("shape", [lambda z: z, lambda z: z[:, 0]])
@pytest.mark.parametrize("kind", ["logit", "centred", "margin"])
def test_one_logit_tells_two_classes_apart(kind: str, shape: Callable[[Tensor], Tensor]) -> None:
    """The logit of a sigmoid is that of class 1 against class 0; of `logit`, class 0 has none that anybody pushes."""
    plain = network(1)
    model = Giving(plain, shape)
    found = traced(model, INPUTS, kind)
    z = plain_logits(model)
    assert found.predictions.tolist() == (z > 0).astype(int).tolist()
    assert np.allclose(found.probabilities[:, 1], 1 / (1 + np.exp(-z)), atol=1e-6)
    ones = by_autograd(model, INPUTS, lambda out: out.sum())
    sign = np.where(found.predictions == 1, 1.0, 0.0 if kind == "logit" else -1.0)[:, None]
    assert np.allclose(found.values, sign * ones, atol=1e-6)
    assert found.residuals.max() < 1e-5


def plain_logits(model: nn.Module) -> np.ndarray:
    """`z` of the fused model."""
    clients, before = federation(model)
    model.load_state_dict({n: (clients[0][n] + 2 * clients[1][n] + 3 * clients[2][n]) / 6 for n in before})
    with torch.no_grad():
        z = model(INPUTS).reshape(-1).numpy()
    model.load_state_dict(before)
    return z


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_takes_one_logit(name: str) -> None:
    model = network(1)
    clients, before = federation(model)
    found = trace(model, INPUTS, from_state_dicts(clients, [1, 2, 3], before), name)
    assert np.isfinite(found.values).all()


def test_a_number_of_the_output_is_explained() -> None:
    model = network(3)
    found = traced(model, INPUTS, "output", [0, 1, 2, 2, 1])
    for row, number in enumerate([0, 1, 2, 2, 1]):
        expected = by_autograd(model, INPUTS[row : row + 1], lambda out, number=number: out[0, number])
        assert np.allclose(found.values[row], expected[0], atol=1e-6)
    assert found.probabilities.shape == (5, 0)
    assert found.outputs is not None
    assert found.outputs.shape == (5, 3)
    assert "output 2 = " in repr(found)
    assert "output 2 = " in found._repr_html_()


def test_the_only_number_needs_no_choice() -> None:
    found = traced(network(1), INPUTS, "output")
    assert np.allclose(found.values, by_autograd(network(1), INPUTS, lambda out: out.sum()), atol=1e-6)


def test_the_squared_error_is_explained(tmp_path: object) -> None:
    model = network(2)
    values = torch.randn(5, 2, generator=torch.Generator().manual_seed(3))
    found = traced(model, INPUTS, "mse", values)
    for row in range(5):
        expected = by_autograd(model, INPUTS[row : row + 1], lambda out, row=row: (out - values[row]).square().mean())
        assert np.allclose(found.values[row], expected[0], atol=1e-6)
    assert (found.predictions == -1).all()
    path = f"{tmp_path}/mse.safetensors"
    found.save(path)
    loaded = Contributions.load(path)
    assert loaded.outputs is not None
    assert np.array_equal(loaded.outputs, found.outputs)
    assert repr(loaded) == repr(found)
    assert "squared error" in repr(found)


def test_an_autoencoder_is_measured_against_its_input() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 6), nn.Unflatten(1, (2, 3))).eval()
    inputs = INPUTS.reshape(5, 2, 3)
    found = traced(model, inputs, "mse")
    for row in range(5):
        target = lambda out, row=row: (out - inputs[row]).square().mean()  # noqa: E731
        assert np.allclose(found.values[row], by_autograd(model, inputs[row : row + 1], target)[0], atol=1e-6)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: {"logits": z},
        lambda z: {"loss": z.sum(), "logits": z, "hidden": z.exp()},
        lambda z: (z, z.exp()),
        lambda z: (z.sum(), z),
    ],
)
def test_logits_are_found_in_what_a_model_gives(wrap: Callable[[Tensor], Any]) -> None:
    model = network(3)
    found, expected = (
        traced(Giving(model, wrap), INPUTS, "margin"),
        traced(Giving(model, lambda z: z), INPUTS, "margin"),
    )
    assert np.array_equal(found.values, expected.values)


@pytest.mark.parametrize(
    ("numbers", "kind", "wanted", "reason"),
    [
        (3, "output", None, "say which one is to be explained, 0 to 2"),
        (3, "output", [3] * 5, "puts out 3 numbers: 0 to 2"),
        (3, "output", [0.5] * 5, "which number of the output"),
        (3, "mse", None, "not as many as it reads"),
        (3, "mse", torch.zeros(5, 2), "puts out 3 numbers for each input, 2 are given"),
        (3, "mse", torch.zeros(4, 3), "for each of the 5 inputs"),
        (3, "mse", torch.full((5, 3), torch.nan), "NaN"),
        (1, "margin", [2] * 5, "tells 2 classes apart"),
    ],
)
def test_what_cannot_be_explained(numbers: int, kind: str, wanted: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        traced(network(numbers), INPUTS, kind, wanted)


def test_maps_of_numbers_are_no_classes() -> None:
    with pytest.raises(RunError, match="the target is output or mse"):
        traced(nn.Sequential(nn.Linear(6, 6), nn.Unflatten(1, (2, 3))), INPUTS, "logit")


def test_kinds_of_targets_are_not_mixed() -> None:
    model = network(2)
    clients, before = federation(model)
    source = from_state_dicts(clients, [1, 2, 3], before)
    with pytest.raises(InputError, match="not both at once"):
        trace_targets(model, INPUTS, source, "faithful", [("margin", None), ("output", [0] * 5)])
    outputs, squares = trace_targets(
        copy.deepcopy(model), INPUTS, source, "faithful", [("output", [0] * 5), ("mse", torch.zeros(5, 2))]
    )
    assert np.array_equal(outputs.values, traced(model, INPUTS, "output", [0] * 5).values)
    assert np.array_equal(squares.values, traced(model, INPUTS, "mse", torch.zeros(5, 2)).values)
