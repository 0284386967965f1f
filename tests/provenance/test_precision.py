"""The type in which rounds are stored, and in which they are traced."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from provfl_cli.errors import RunError
from provfl_cli.provenance import Contributions, from_state_dicts, trace
from provfl_cli.provenance.precision import CANCELS

HALF = [torch.float16, torch.bfloat16, torch.float8_e4m3fn]
SHARES = (0.5, 0.3, 0.2)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def rounds(dtype: torch.dtype) -> tuple[list[dict[str, Tensor]], dict[str, Tensor], dict[str, Tensor]]:
    """Clients and the model before, stored as `dtype`, and the exact mean of the clients in float64."""
    generator = torch.Generator().manual_seed(3)
    before = {n: t.to(dtype) for n, t in network().state_dict().items()}
    clients = [
        {n: (t.float() + 0.05 * torch.randn(t.shape, generator=generator)).to(dtype) for n, t in before.items()}
        for _ in SHARES
    ]
    exact = {n: sum(s * c[n].double() for s, c in zip(SHARES, clients, strict=True)) for n in before}
    return clients, before, exact


def traced(dtype: torch.dtype, after: dict[str, Tensor], name: str, model: nn.Module | None = None) -> Contributions:
    clients, before, _ = rounds(dtype)
    inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(4))
    source = from_state_dicts(clients, [50, 30, 20], before, after)
    return trace(model or network(), inputs, source, name, [0, 1, 2, 3, 0])


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", ["faithful", "equations"])
def test_the_rounding_of_a_stored_model_has_a_row(dtype: torch.dtype, name: str) -> None:
    """It is the inner product with what rounding changed, and all rows then add up as exactly as in float32."""
    _, _, exact = rounds(dtype)
    after = {n: t.to(dtype) for n, t in exact.items()}
    found = traced(dtype, after, name)
    assert found.residuals.max() < 1e-5
    change = {n: (after[n].double() - exact[n]).float() for n in exact}
    model = network()
    model.load_state_dict({n: t.float() for n, t in after.items()})
    inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(4))
    for row, label in enumerate([0, 1, 2, 3, 0]):
        logits = model(inputs[row : row + 1])[0]
        others = logits[[c for c in range(4) if c != label]]
        target = logits[label] - others.logsumexp(0) if name == "faithful" else logits[label]
        gradients = torch.autograd.grad(target, list(model.parameters()))
        if name == "faithful":
            expected = sum(float((g * change[n]).sum()) for g, n in zip(gradients, change, strict=True))
            assert found.rows["rounding"][row] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert np.abs(found.rows["rounding"]).max() > 0


@pytest.mark.parametrize("dtype", HALF[:2])
def test_the_model_of_half_precision_is_traced_in_float32(dtype: torch.dtype) -> None:
    _, _, exact = rounds(dtype)
    after = {n: t.to(dtype) for n, t in exact.items()}
    narrow = network().to(dtype)
    wide, half = traced(dtype, after, "provfl"), traced(dtype, after, "provfl", narrow)
    assert np.array_equal(wide.values, half.values)
    assert half.unchecked == ()
    assert next(narrow.parameters()).dtype == dtype


@pytest.mark.parametrize("dtype", HALF)
def test_more_than_rounding_is_no_rounding(dtype: torch.dtype) -> None:
    """One client's weights in the place of the mean: a wrong statement of what the model is made of."""
    clients, _, _ = rounds(dtype)
    with pytest.raises(RunError, match="conservation fails"):
        traced(dtype, clients[0], "faithful")


def test_rows_of_float32_rounds_stay_as_they_are() -> None:
    _, _, exact = rounds(torch.float32)
    found = traced(torch.float32, {n: t.float() for n, t in exact.items()}, "faithful")
    assert "rounding" not in found.rows
    assert not any(CANCELS in note for note in found.notes)


def test_what_cancels_is_computed_in_float64() -> None:
    """Late, small updates: the rounding of the weights to float32 is as large as what clients did."""
    generator = torch.Generator().manual_seed(5)
    model = network()
    before = {n: 10 * t.clone() for n, t in model.state_dict().items()}
    clients = [{n: t + 1e-5 * torch.randn(t.shape, generator=generator) for n, t in before.items()} for _ in range(3)]
    inputs = torch.randn(6, 6, generator=generator)
    found = trace(model, inputs, from_state_dicts(clients, [1, 1, 1], before), "faithful")
    assert CANCELS in found.notes
    assert found.residuals.max() < 1e-6
    wide = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).double()
    source = from_state_dicts(
        [{n: t.double() for n, t in client.items()} for client in clients],
        [1, 1, 1],
        {n: t.double() for n, t in before.items()},
    )
    truth = trace(wide, inputs.double(), source, "faithful")
    assert np.abs(found.values - truth.values).max() < 1e-3 * np.abs(truth.values).max()
    assert next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("dtype", HALF[:2])
def test_what_cancels_while_a_server_sums_is_rounding(dtype: torch.dtype) -> None:
    """Updates that are larger than the models before and after round as large numbers do, and leave small ones."""
    generator = torch.Generator().manual_seed(6)
    before = {n: torch.zeros_like(t, dtype=dtype) for n, t in network().state_dict().items()}
    first = {n: torch.randn(t.shape, generator=generator) for n, t in before.items()}
    clients = [
        {n: (s * t).to(dtype) for n, t in first.items()}
        for s in (SHARES[1] + SHARES[2], -SHARES[0], -SHARES[0])  # their mean is 0 but for rounding
    ]
    after = dict(before)
    for share, client in zip(SHARES, clients, strict=True):
        after = {n: (after[n] + (share * client[n].float()).to(dtype)).to(dtype) for n in before}
    source = from_state_dicts(clients, [50, 30, 20], before, after)
    traced_round = trace(network(), torch.randn(5, 6, generator=generator), source, "faithful", [0, 1, 2, 3, 0])
    assert traced_round.residuals.max() < 1e-5
    assert np.abs(traced_round.rows["rounding"]).max() > 0


def test_rounding_that_a_round_states_stands_beside_that_of_storing() -> None:
    """One tensor is stored in half precision; another was computed so and is stored in float32."""
    clients, before, _ = rounds(torch.float32)
    clients = [{n: t.bfloat16() if n == "0.weight" else t for n, t in client.items()} for client in clients]
    before = {n: t.bfloat16() if n == "0.weight" else t for n, t in before.items()}
    exact = {n: sum(s * c[n].double() for s, c in zip(SHARES, clients, strict=True)) for n in before}
    after = {n: t.bfloat16() if n == "0.weight" else t.bfloat16().float() for n, t in exact.items()}
    lost = {n: (after[n].double() - exact[n]).float() for n in exact}
    source = from_state_dicts(clients, [50, 30, 20], before, after)
    stated = {"rounding": {n: t for n, t in lost.items() if n != "0.weight"}}
    source = replace(source, decomposition=replace(source.decomposition, unsent=stated))
    inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(4))
    traced_round = trace(network(), inputs, source, "faithful", [0, 1, 2, 3])
    assert traced_round.residuals.max() < 1e-5
    model = network()
    model.load_state_dict({n: t.float() for n, t in after.items()})
    for row, label in enumerate(range(4)):
        logits = model(inputs[row : row + 1])[0]
        target = logits[label] - logits[[c for c in range(4) if c != label]].logsumexp(0)
        gradients = torch.autograd.grad(target, list(model.parameters()))
        expected = sum(
            float((g * lost[n]).sum()) for g, (n, _) in zip(gradients, model.named_parameters(), strict=True)
        )
        assert traced_round.rows["rounding"][row] == pytest.approx(expected, rel=1e-3, abs=1e-6)
