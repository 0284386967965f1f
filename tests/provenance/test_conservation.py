"""The residual: what it is relative to, and from where on it is no rounding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from provfl_cli.errors import RunError
from provfl_cli.fusion.decomposition import Decomposition
from provfl_cli.provenance.conservation import ROUNDING, TOLERANCE, check, left_side, residuals, suspicious
from provfl_cli.provenance.state_dicts import RoundInMemory
from provfl_cli.provenance.tracing import trace

from .federations import perturbed, settings

SHARES = torch.tensor([0.25, 0.75], dtype=torch.float64)


def stack(kinds: tuple[str, ...] = ("momentum",), previous: bool = True) -> Any:
    """Two clients, a row for each of `kinds`, and one of the previous model."""
    source = SimpleNamespace(decomposition=SimpleNamespace(example_weights=SHARES))
    return SimpleNamespace(source=source, size=2, kinds=kinds, counted=2 + len(kinds) + previous)


def numbers(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_the_left_side_counts_clients_by_their_shares_and_the_rest_as_it_is() -> None:
    rows = numbers(4.0, -8.0, 10.0, 100.0, 1e6)  # the last is no part of the model: a client without its share
    assert left_side(rows, stack()).tolist() == [1.0 - 6.0 + 10.0 + 100.0]
    assert left_side(rows[:, :3], stack(previous=False)).tolist() == [1.0 - 6.0 + 10.0]
    assert left_side(rows[:, :3], stack(kinds=())).tolist() == [1.0 - 6.0 + 10.0]


def test_the_scale_is_of_clients_and_what_nobody_sent_but_not_of_the_previous_model() -> None:
    rows = numbers(4.0, -8.0, -10.0, 100.0)
    residual, difference = residuals(rows, numbers(87.0)[0], stack())  # left: 1 - 6 - 10 + 100
    assert difference.tolist() == [2.0]
    assert residual.tolist() == [2.0 / (1.0 + 6.0 + 10.0)]
    two, _ = residuals(numbers(4.0, -8.0, -10.0, 3.0, 100.0), numbers(90.0)[0], stack(("momentum", "noise")))
    assert two.tolist() == [2.0 / (1.0 + 6.0 + 10.0 + 3.0)]
    none, _ = residuals(numbers(4.0, -8.0, 100.0), numbers(93.0)[0], stack(()))
    assert none.tolist() == [2.0 / (1.0 + 6.0)]


def test_nothing_that_adds_up_to_nothing_has_no_residual() -> None:
    residual, difference = residuals(numbers(0.0, 0.0, 0.0, 0.0), numbers(0.0)[0], stack())
    assert residual.tolist() == difference.tolist() == [0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_suspicious_and_what_is_wrong(dtype: torch.dtype) -> None:
    limit, rounding = TOLERANCE[dtype], ROUNDING[dtype]
    ok, high = torch.tensor([0.0, limit], dtype=dtype), torch.tensor([limit * 1.01, limit], dtype=dtype)
    assert not suspicious(ok, dtype)
    assert suspicious(high, dtype)
    assert suspicious(torch.tensor([torch.nan, 0.0], dtype=dtype), dtype)
    mass = torch.tensor([8.0, 8.0], dtype=dtype)
    check(high, rounding * mass, mass, dtype)  # cancelled: the difference is rounding of what was summed
    check(ok, 1e3 * mass, mass, dtype)  # a small residual needs no look
    with pytest.raises(RunError, match=r"fails for 1 of 2 inputs \(worst: input 0, residual 1\.01e-"):
        check(high, rounding * mass * 1.01, mass, dtype)
    with pytest.raises(RunError, match=r"fails for 2 of 2 inputs \(worst: input 1"):
        check(torch.tensor([2.0, 3.0], dtype=dtype), mass, mass, dtype)


def test_momentum_beside_clients_that_hardly_moved_is_no_failed_conservation() -> None:
    """A model whose clients barely moved and whose momentum moved it: the scale has to know of the momentum."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    clients = [perturbed(before, 1e-12, seed) for seed in range(2)]
    momentum = {name: 0.1 * torch.randn_like(tensor) for name, tensor in before.items()}
    stacked = {name: torch.stack([client[name] for client in clients]) for name in before}
    parts = Decomposition(SHARES, {}, {"momentum": momentum})
    after = {
        name: (momentum[name].double() + torch.einsum("k,k...->...", SHARES, stacked[name].double())).to(tensor.dtype)
        for name, tensor in before.items()
    }
    answer = trace(model, torch.randn(5, 6), RoundInMemory((0, 1), parts, after, before, stacked), settings())
    assert answer.residuals.max() < 1e-4
    assert abs(answer.rows["momentum"]).min() > 1e3 * abs(answer.values).max()
