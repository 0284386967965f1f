"""FedAvg and FedProx against their definitions, and the statement of what a fused model is made of."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provfl_cli.errors import InputError
from provfl_cli.fusion.average import example_shares, weighted_average
from provfl_cli.fusion.decomposition import Multiplier
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.fedprox import FedProx
from provfl_cli.fusion.fuse import fuse
from provfl_cli.fusion.updates import Returned

examples_lists = st.lists(st.integers(1, 5000), min_size=1, max_size=12)


def test_fedavg_by_hand() -> None:
    clients = {"w": torch.tensor([[0.0, 4.0], [8.0, 0.0]]), "steps": torch.tensor([10, 20])}
    previous = {"w": torch.zeros(2), "steps": torch.tensor(0)}
    fused = fuse(FedAvg(), Returned(previous, clients, [30, 10], [1, 1], frozenset({"steps"})), {})
    assert torch.equal(fused.weights["w"], torch.tensor([2.0, 3.0]))
    assert fused.weights["steps"].dtype == torch.int64
    assert int(fused.weights["steps"]) == 12  # 12.5, to the even neighbour
    assert fused.decomposition.example_weights.tolist() == [0.75, 0.25]
    assert fused.state == {}


@given(examples=examples_lists, seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_result_equals_its_decomposition(examples: list[int], seed: int) -> None:
    """W = W_prev + U + sum_k A_k o (W_k - V_k), to the rounding of one float32."""
    random = torch.Generator().manual_seed(seed)
    previous = {"w": torch.randn(3, 5, generator=random), "b": torch.randn(7, generator=random)}
    clients = {name: torch.randn(len(examples), *value.shape, generator=random) for name, value in previous.items()}
    for fusion in (FedAvg(), FedProx(mu=0.1)):
        fused = fuse(fusion, Returned(previous, clients, examples, [1] * len(examples), frozenset()), {})
        made_of = fused.decomposition
        assert abs(float(made_of.example_weights.sum()) - 1) < 1e-12
        for name, before in previous.items():
            multiplier = made_of.multipliers.get(name, Multiplier(torch.ones(len(examples), dtype=torch.float64)))
            shares = made_of.example_weights.view(-1, *(1,) * before.dim())
            weight = shares * multiplier.rows(slice(None), tuple(before.shape))
            rebuilt = before.double() + (weight * (clients[name].double() - before.double())).sum(0)
            for tensors in made_of.unsent.values():
                rebuilt += tensors[name].double()
            assert torch.allclose(fused.weights[name].double(), rebuilt, rtol=1e-6, atol=1e-6)


@given(examples=examples_lists, seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_average_lies_among_the_clients_and_ignores_their_order(examples: list[int], seed: int) -> None:
    stack = torch.randn(len(examples), 4, generator=torch.Generator().manual_seed(seed))
    average = weighted_average(stack, example_shares(examples))
    assert (average >= stack.amin(0) - 1e-6).all()
    assert (average <= stack.amax(0) + 1e-6).all()
    turned = weighted_average(stack.flip(0), example_shares(examples[::-1]))
    assert torch.allclose(average, turned, atol=1e-6)


def test_average_is_summed_in_double_precision() -> None:
    stack = torch.full((1000, 1), 0.1)
    assert weighted_average(stack, example_shares([1] * 1000)) == torch.tensor([0.1])


def test_fedprox_gradient_is_that_of_the_term_in_the_loss() -> None:
    start = [torch.randn(3, 2), torch.randn(4)]
    weights = [torch.randn(3, 2, requires_grad=True), torch.randn(4, requires_grad=True)]
    inputs = torch.randn(4, 3)

    def loss() -> torch.Tensor:
        return (inputs @ weights[0]).tanh().sum() + weights[1].exp().sum()

    gradients = [gradient.clone() for gradient in torch.autograd.grad(loss(), weights)]
    FedProx(mu=0.3).correct_gradients(gradients, [weight.data for weight in weights], start)
    term = sum(((weight - first) ** 2).sum() for weight, first in zip(weights, start, strict=True)) * 0.3 / 2
    for ours, truth in zip(gradients, torch.autograd.grad(loss() + term, weights), strict=True):
        assert torch.allclose(ours, truth, atol=1e-6)


def test_fedprox_refuses_a_negative_mu() -> None:
    with pytest.raises(InputError, match=r"fusion\.mu=-1"):
        FedProx(mu=-1)
