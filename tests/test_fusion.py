"""Every fusion states what its result is made of; those that average are what their papers define.

Every option of `conf/fusion` is tested here: that the statement holds, that it is the statement of each single client,
and that a wrong one is caught.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import sqrt
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provfl_cli.errors import InputError, RunError
from provfl_cli.federation.optimizers import make_step, rate
from provfl_cli.fusion.adaptive import Adaptive
from provfl_cli.fusion.average import example_shares, weighted_average
from provfl_cli.fusion.fedadagrad import FedAdagrad
from provfl_cli.fusion.fedadam import FedAdam
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.fedavgm import FedAvgM
from provfl_cli.fusion.fednova import FedNova, local_norm
from provfl_cli.fusion.fedprox import FedProx
from provfl_cli.fusion.fedyogi import FedYogi
from provfl_cli.fusion.fuse import FusionResult, combined, fuse
from provfl_cli.fusion.updates import ReturnedModels, norms, unclipped

from .fusions import (
    FUSIONS,
    clipped,
    configured,
    federation,
    largest_gap,
    made_of,
    random_round,
    round_of,
    values_of,
    whole_shares,
)

ROUNDING = 5e-6  # of float32, for models whose numbers are below 10
every_fusion = pytest.mark.parametrize("name", FUSIONS)
examples_lists = st.lists(st.integers(1, 5000), min_size=1, max_size=12)


def second_round(name: str, seed: int, late: bool = False, clip: bool = False, grid: bool = False) -> Any:
    """The fusion, the second of two random rounds of 7 to 9 clients, and what became of it."""
    fusion, count = configured(name), 7 + seed % 3
    first = fuse(fusion, random_round(seed, count, grid=grid), {})
    returned = replace(random_round(seed + 1, count, late, grid), previous=first.weights)
    return fusion, returned, fuse(fusion, returned, first.state, clipped(returned, seed) if clip else None)


# --- every fusion -----------------------------------------------------------------------------------------------------


drawn = given(seed=st.integers(0, 10_000), late=st.booleans(), clip=st.booleans(), grid=st.booleans())


@every_fusion
@drawn
@settings(deadline=None, max_examples=4)
def test_result_equals_its_decomposition(name: str, seed: int, late: bool, clip: bool, grid: bool) -> None:
    assert_decomposed(name, seed, late, clip, grid)


@pytest.mark.slow
@every_fusion
@drawn
@settings(deadline=None, max_examples=50)
def test_many_results_equal_their_decomposition(name: str, seed: int, late: bool, clip: bool, grid: bool) -> None:
    assert_decomposed(name, seed, late, clip, grid)


def assert_decomposed(name: str, seed: int, late: bool, clip: bool, grid: bool) -> None:
    """W = W_prev + U + sum_k A_k o (W_k - V_k), to rounding; U has what it has to have and nothing else."""
    fusion, returned, fused = second_round(name, seed, late, clip, grid)
    parts = fused.decomposition
    assert largest_gap(made_of(returned, whole_shares(parts, returned), parts.unsent), fused.weights) < ROUNDING
    expected = {"momentum"} if fusion.decay else set()
    assert set(parts.unsent) == (expected | {"stale"} if late else expected)
    assert set(fused.weights) == set(returned.previous)
    averaged = weighted_average(returned.clients["running"], example_shares(returned.examples))
    assert torch.equal(fused.weights["running"], averaged)


@every_fusion
@pytest.mark.parametrize("late", [False, True])
def test_moving_one_client_moves_the_result_by_its_share(name: str, late: bool) -> None:
    """Selection, scales and momentum as they were, client k moved by eps moves W by A_k o eps, and by nothing else."""
    fusion, returned, fused = second_round(name, 3, late, clip=True)
    shares = whole_shares(fused.decomposition, returned)
    for client in range(len(returned.examples)):
        for parameter in returned.parameters:
            sent = returned.clients[parameter].clone()
            eps = torch.randn(sent.shape[1:], generator=torch.Generator().manual_seed(client))
            sent[client] += eps
            moved = replace(fused.updates, returned=replace(returned, clients={**returned.clients, parameter: sent}))
            before, _ = combined(fused.updates, fused.shares, parameter)
            after, _ = combined(moved, fused.shares, parameter)
            step = fused.scales[parameter] * fusion.gain * (after - before)
            real = sent[client].double() - returned.clients[parameter][client].double()
            assert torch.allclose(step, shares[parameter][client] * real, rtol=1e-6, atol=1e-12)


@every_fusion
def test_a_wrong_share_is_caught(name: str) -> None:
    """Two clients' shares swapped, a client forgotten or the momentum dropped: the identity does not hold any more."""
    fusion, returned, fused = second_round(name, 5)
    parts, shares = fused.decomposition, whole_shares(fused.decomposition, returned)
    sizes = torch.stack([share.reshape(len(share), -1).abs().sum(1) for share in shares.values()]).sum(0)
    most, least = int(sizes.argmax()), int(sizes.argmin())
    forgotten = {parameter: share.clone() for parameter, share in shares.items()}
    for share in forgotten.values():
        share[most] = 0
    assert largest_gap(made_of(returned, forgotten, parts.unsent), fused.weights) > 100 * ROUNDING
    order = list(range(len(returned.examples)))
    order[most], order[least] = least, most
    swapped = {parameter: share[order] for parameter, share in shares.items()}
    if largest_gap(swapped, shares) > 1e-3:  # else all have the same share
        assert largest_gap(made_of(returned, swapped, parts.unsent), fused.weights) > 100 * ROUNDING
    if fusion.decay:
        assert largest_gap(made_of(returned, shares, {}), fused.weights) > 100 * ROUNDING


@every_fusion
def test_order_of_clients_changes_nothing_but_the_order_of_shares(name: str) -> None:
    fusion, returned = configured(name), random_round(11, 8)
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    turned = ReturnedModels(
        returned.previous,
        {parameter: sent[order] for parameter, sent in returned.clients.items()},
        [returned.examples[at] for at in order],
        [returned.steps[at] for at in order],
        returned.buffers,
    )
    fused, other = fuse(fusion, returned, {}), fuse(fusion, turned, {})
    shares, others = whole_shares(fused.decomposition, returned), whole_shares(other.decomposition, turned)
    assert largest_gap({parameter: share[order] for parameter, share in shares.items()}, others) < 1e-9
    assert largest_gap({parameter: fused.weights[parameter].double() for parameter in shares}, other.weights) < ROUNDING


@every_fusion
@pytest.mark.parametrize("seed", range(2))
def test_clients_that_returned_the_same_share_equally(name: str, seed: int) -> None:
    """Three of nine are the same client; whatever the fusion takes of them it takes in equal parts."""
    returned = random_round(seed, 9)
    for sent in returned.clients.values():
        sent[2] = sent[6] = sent[0].clone()
    same = replace(returned, examples=[20] * 9, steps=[3] * 9)
    fused = fuse(configured(name), same, {})
    shares = whole_shares(fused.decomposition, same)
    assert largest_gap(made_of(same, shares, {}), fused.weights) < ROUNDING
    for share in shares.values():
        for twin in (2, 6):
            assert torch.allclose(share[twin], share[0], rtol=1e-12, atol=0)


@every_fusion
def test_the_same_update_from_all_is_the_result(name: str) -> None:
    fusion = configured(name)
    if isinstance(fusion, Adaptive):
        pytest.skip("a server optimizer that rescales")
    returned = random_round(2, 7)
    for parameter, sent in returned.clients.items():
        sent[:] = returned.previous[parameter] + (sent[0] / 50 if sent.is_floating_point() else sent[0])
    fused = fuse(fusion, replace(returned, steps=[4] * 7), {})
    assert largest_gap({name: fused.weights[name].double() for name in returned.parameters},
                       {name: sent[0] for name, sent in returned.clients.items()}) < ROUNDING  # fmt: skip


@every_fusion
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_end_the_run(name: str, bad: float) -> None:
    returned = random_round(2, 7)
    returned.clients["bias"][4, 3] = bad
    with pytest.raises(RunError, match="counted from 0, 4 returned"):
        fuse(configured(name), returned, {})


@every_fusion
def test_a_previous_model_that_is_not_finite_is_not_blamed_on_clients(name: str) -> None:
    returned = random_round(2, 7)
    returned.previous["bias"][3] = float("nan")
    with pytest.raises(RunError, match=r"the global model before the round holds .* \(in bias\)"):
        fuse(configured(name), returned, {})


@every_fusion
def test_default_federation_fits_every_fusion(name: str) -> None:
    fusion, its_federation = configured(name), federation(name)
    fusion.check(its_federation)


# --- those that average -----------------------------------------------------------------------------------------------


def test_fedavg_by_hand() -> None:
    clients = {"w": torch.tensor([[0.0, 4.0], [8.0, 0.0]]), "steps": torch.tensor([10, 20])}
    previous = {"w": torch.zeros(2), "steps": torch.tensor(0)}
    fused = fuse(FedAvg(), ReturnedModels(previous, clients, [30, 10], [1, 1], frozenset({"steps"})), {})
    assert torch.equal(fused.weights["w"], torch.tensor([2.0, 3.0]))
    assert fused.weights["steps"].dtype == torch.int64
    assert int(fused.weights["steps"]) == 12  # 12.5, to the even neighbour
    assert fused.decomposition.example_weights.tolist() == [0.75, 0.25]
    assert fused.state == {}


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


# --- FedNova ----------------------------------------------------------------------------------------------------------


def test_fednova_by_hand() -> None:
    """p = 3/4 and 1/4, 2 and 4 steps: tau_eff = 2.5, A = 3/4 * 2.5/2 and 1/4 * 2.5/4."""
    returned = round_of([[1.6], [6.4]], [30, 10], [2, 4])
    fused = fuse(FedNova(), returned, {})
    assert whole_shares(fused.decomposition, returned)["w"].flatten().tolist() == [0.9375, 0.15625]
    assert values_of(fused) == pytest.approx([1.6 * 0.9375 + 6.4 * 0.15625])


@pytest.mark.parametrize("warmup", [0, 3, 20])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_local_norm_is_how_far_the_clients_own_optimizer_goes(momentum: float, warmup: int) -> None:
    """With all gradients 1 a client moves by the learning rate times |a|_1."""
    weight = torch.zeros(1, dtype=torch.float64)
    chosen = federation(momentum=momentum, warmup_steps=warmup, learning_rate=0.25, optimizer="sgd")
    step = make_step([weight], chosen, partial(rate, chosen, 1))
    for number in range(1, 9):
        step([0], [torch.ones(1, dtype=torch.float64)])
        assert local_norm(number, momentum, warmup) == pytest.approx(-float(weight) / 0.25, rel=1e-12)


def test_local_norm_is_the_formula_of_the_paper() -> None:
    for steps in (1, 2, 7, 100):
        assert local_norm(steps, 0.0) == steps
        formula = (steps - 0.9 * (1 - 0.9**steps) / 0.1) / 0.1
        assert local_norm(steps, 0.9) == pytest.approx(formula, rel=1e-12)


def test_fednova_takes_the_momentum_of_the_federation() -> None:
    fusion = configured("fednova")
    assert (fusion.momentum, fusion.warmup_steps) == (federation().momentum, federation().warmup_steps) == (0.9, 0)
    with pytest.raises(InputError, match=r"federation\.momentum=0\.5 instead"):
        configured("fednova", momentum=0.5).check(federation())


def test_fednova_refuses_adam() -> None:
    with pytest.raises(InputError, match=r"federation\.optimizer=adam: .* federation\.optimizer=sgd"):
        configured("fednova").check(federation(optimizer="adam"))


def test_fednova_is_fedavg_where_all_make_the_same_steps() -> None:
    returned = replace(random_round(0, 6), steps=[7] * 6)
    ours, plain = fuse(FedNova(momentum=0.9), returned, {}), fuse(FedAvg(), returned, {})
    assert largest_gap({name: ours.weights[name].double() for name in returned.parameters}, plain.weights) < ROUNDING


def test_fednova_counts_steps_where_asked_to_and_nobody_without_any() -> None:
    """Norms with momentum 1/2: 1 of one step, 2.5 of two; p = 1/2: tau_eff by steps is 1.5."""
    returned = round_of([[1.0], [10.0]], None, [1, 2])
    fused = fuse(FedNova(momentum=0.5, effective_steps="steps"), returned, {})
    assert values_of(fused) == pytest.approx([0.5 * 1.5 * (1 / 1 + 10 / 2.5)])
    idle = fuse(FedNova(), round_of([[0.0], [10.0]], None, [0, 2]), {})
    assert values_of(idle) == [2.5]  # tau_eff = 1, A = 0 and 1/2 * 1/2
    assert idle.decomposition.candidates(["w"]).tolist() == [False, True]


# --- server optimizers ------------------------------------------------------------------------------------------------


def two_rounds(fusion: Any, first: float, second: float) -> tuple[FusionResult, FusionResult]:
    """Two rounds of two clients with 3 and 1 examples, whose average moves by `first` and then by `second`."""
    result = fuse(fusion, round_of([[first + 1], [first - 3]], [3, 1]), {})
    sent = result.weights["w"] + torch.tensor([[second - 2], [second + 6]])
    return result, fuse(fusion, ReturnedModels(result.weights, {"w": sent}, [3, 1], [1, 1], frozenset()), result.state)


def test_fedavgm_by_hand() -> None:
    """v = 2, then 0.5 * 2 + 4 = 5; the model is at 0.25 * 2, then at 0.5 + 0.25 * 5."""
    first, second = two_rounds(FedAvgM(momentum=0.5, learning_rate=0.25), 2.0, 4.0)
    assert (values_of(first), values_of(second)) == ([0.5], [1.75])
    assert first.decomposition.unsent == {}
    assert second.decomposition.unsent["momentum"]["w"].tolist() == [0.25]


def test_fedavgm_without_momentum_is_fedavg() -> None:
    _, second = two_rounds(FedAvgM(momentum=0.0), 2.0, 4.0)
    assert values_of(second) == [6.0]
    assert second.decomposition.unsent == {}


def test_fedadagrad_by_hand() -> None:
    """v = 1 + 3 = 4, then 4 + 5 = 9 (tau 1, so v starts at 1); steps of 0.5 Delta / (2 + 1) and / (3 + 1)."""
    first, second = two_rounds(FedAdagrad(eta=0.5, tau=1.0), sqrt(3), sqrt(5))
    assert values_of(first) == pytest.approx([0.5 * sqrt(3) / 3])
    assert values_of(second) == pytest.approx([0.5 * sqrt(3) / 3 + 0.5 * sqrt(5) / 4])
    assert second.decomposition.unsent == {}


@pytest.mark.parametrize(
    ("fusion", "v"),
    [
        (FedAdam, (0.75 * 4 + 0.25 * 4, 0.75 * 4 + 0.25 * 100)),  # 4, then 28
        (FedYogi, (4.0, 4.0 + 0.25 * 100)),  # sign 0: stays at 4; then 29
    ],
)
def test_fedadam_and_fedyogi_by_hand(fusion: Any, v: tuple[float, float]) -> None:
    """Delta 2, then 10; m = 0.5 * 2 = 1, then 0.5 * 1 + 0.5 * 10 = 5.5."""
    made = fusion(eta=0.5, beta1=0.5, beta2=0.75, tau=2.0)  # v starts at 4
    first, second = two_rounds(made, 2.0, 10.0)
    step = 0.5 * 1 / (sqrt(v[0]) + 2)
    assert values_of(first) == pytest.approx([step])
    assert values_of(second) == pytest.approx([step + 0.5 * 5.5 / (sqrt(v[1]) + 2)])
    carried = second.decomposition.unsent["momentum"]["w"]
    assert carried.tolist() == pytest.approx([0.5 * 0.5 / (sqrt(v[1]) + 2)])


def test_fedyogi_falls_by_a_step_of_the_update() -> None:
    """v = 4 - 0.25 * 1 where Delta is 1, however large v is."""
    fused = fuse(FedYogi(eta=1.0, beta1=0.0, beta2=0.75, tau=2.0), round_of([[1.0]]), {})
    assert values_of(fused) == pytest.approx([1 / (sqrt(3.75) + 2)])


def test_fedadams_bias_correction_by_hand() -> None:
    """Round 1: eta sqrt(1 - 0.75^2) / (1 - 0.5^2), on m = 0.5 and v = 0.25."""
    fusion = FedAdam(eta=0.3, beta1=0.5, beta2=0.75, tau=1.0, initial_v=0.0, bias_correction=True)
    fused = fuse(fusion, round_of([[1.0]]), {})
    rate = 0.3 * sqrt(1 - 0.75**2) / (1 - 0.5**2)
    assert values_of(fused) == pytest.approx([rate * 0.5 / (sqrt(0.25) + 1.0)])


def test_norms_of_updates_are_those_of_float64() -> None:
    """1 and 2^-30 beside it: in float32 the second would be lost."""
    returned = ReturnedModels(
        {"a": torch.zeros(1, dtype=torch.float64), "b": torch.zeros((), dtype=torch.float64)},
        {"a": torch.ones(2, 1, dtype=torch.float64), "b": torch.tensor([0.0, 2.0**-13], dtype=torch.float64)},
        [1, 1], [1, 1], frozenset(),
    )  # fmt: skip
    lengths = norms(unclipped(returned))
    assert lengths.dtype == torch.float64
    assert lengths.tolist() == [1.0, sqrt(1 + 2.0**-26)]


def test_server_optimizers_refuse_settings_out_of_range() -> None:
    for name, key, value in (
        ("fedadam", "beta1", 1.0), ("fedadam", "beta2", -0.1), ("fedyogi", "tau", 0.0), ("fedadagrad", "eta", 0.0),
        ("fedadagrad", "initial_v", -1.0), ("fedavgm", "momentum", 1.0), ("fedavgm", "learning_rate", 0.0),
        ("fednova", "effective_steps", "few"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=rf"fusion\.{key}="):
            configured(name, **{key: value})


def test_a_state_of_other_rounds_goes_on_where_it_was() -> None:
    """The state is all that is needed: three rounds in one go, or stored and read after the second."""
    fusion, rounds, state = FedAdam(bias_correction=True), [random_round(at, 3) for at in range(3)], {}
    for returned in rounds:
        fused = fuse(fusion, returned, state)
        state = {name: tensor.clone() for name, tensor in fused.state.items()}
    assert int(state["round"]) == 3
    assert {name.split("/")[0] for name in state} == {"round", "momentum", "second"}
