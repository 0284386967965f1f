"""Differential privacy: clipping, noise and clip norms against their definitions, epsilon against known values."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import dp_accounting
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from scipy.stats import norm
from torch import nn

from provfl_cli.config import tree
from provfl_cli.config.schema import Model
from provfl_cli.config.validate import _targeted
from provfl_cli.data.federated import Pictures
from provfl_cli.errors import InputError
from provfl_cli.fusion.accounting import Ledger, amplified, composed, figures, ledger_of, told
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.fuse import Shares, combined, fuse
from provfl_cli.fusion.privacy import CLIP_NORM, CentralDP, LocalDP, NoPrivacy, beyond_average, check_model
from provfl_cli.fusion.submission import Submission
from provfl_cli.fusion.updates import ReturnedModels, Updates
from provfl_cli.models.build import build
from provfl_cli.models.torchvision import _normalised

from .federations import SmallNet


@dataclass(frozen=True)
class FirstOnly(FedAvg):
    """A fusion that is no average: all of the first client."""

    def shares(self, updates: Updates) -> Shares:
        return Shares(torch.tensor([1.0] + [0.0] * (updates.count - 1), dtype=torch.float64))


def returned_of(*moves: list[float], size: int = 2, late: int | None = None) -> ReturnedModels:
    """Clients that moved by these amounts from (1, 1, ...); the buffer moved far; `late` started elsewhere."""
    previous = {"w": torch.ones(size), "count": torch.tensor(0.0)}
    bases = {} if late is None else {late: {"w": torch.full((size,), 3.0), "count": torch.tensor(0.0)}}
    starts = [bases.get(k, previous)["w"] for k in range(len(moves))]
    clients = {
        "w": torch.stack([start + torch.tensor(move) for start, move in zip(starts, moves, strict=True)]),
        "count": torch.full((len(moves),), 1000.0),
    }
    return ReturnedModels(
        previous, clients, list(range(1, len(moves) + 1)), [1] * len(moves), frozenset({"count"}), bases
    )


def fusion_options() -> list[Any]:
    """Every fusion of `conf/fusion/` with its default settings."""
    cases = []
    plain: Any = OmegaConf.load(tree.conf_dir() / "config.yaml")
    for name in tree.options("fusion"):
        file: Any = OmegaConf.load(tree.option_file("fusion", name))
        own = file if "fusion" in file else {"fusion": file}  # one that brings other settings stands in a block
        merged: Any = OmegaConf.merge({"federation": plain.federation}, own)
        cases.append(pytest.param(OmegaConf.to_container(merged.fusion, resolve=True), id=name))
    return cases


# Clipping


def test_updates_are_clipped_over_all_parameters_and_count_equally() -> None:
    returned = returned_of([3.0, 4.0], [0.3, 0.4], [0.0, 0.0])
    equal, updates = CentralDP(clip_norm=1.0, noise_multiplier=0).clipped(returned, {})
    assert updates.factors.tolist() == pytest.approx([0.2, 1.0, 1.0])
    assert list(equal.examples) == [1, 1, 1]
    fused = fuse(FedAvg(), equal, {}, updates)
    expected = torch.tensor([1 + (0.6 + 0.3) / 3, 1 + (0.8 + 0.4) / 3])
    assert torch.allclose(fused.weights["w"], expected)
    assert fused.decomposition.example_weights.tolist() == pytest.approx([1 / 3] * 3)


def test_a_late_client_is_clipped_by_its_own_work_alone() -> None:
    """Where it started is public already: V_k - W_prev, 2 in each coordinate, is not scaled."""
    _, updates = CentralDP(clip_norm=1.0).clipped(returned_of([3.0, 4.0], [0.0, 0.0], late=0), {})
    assert updates.rows("w", slice(None))[0].tolist() == pytest.approx([2.6, 2.8])


def test_without_privacy_all_stays_as_it_is() -> None:
    returned = returned_of([3.0, 4.0], [0.3, 0.4])
    same, updates = NoPrivacy().clipped(returned, {})
    assert same is returned
    assert updates.factors.tolist() == [1.0, 1.0]
    assert NoPrivacy().noise(returned, {}, 0, 1) is None
    assert NoPrivacy().next_state(updates, {}, 0, 1) == {}
    assert NoPrivacy().spent(Ledger(3, 10, 10, "uniform", [3] * 10, FedAvg())) is None
    weights = {"w": torch.ones(2)}
    NoPrivacy().privatise(Submission(weights, {"w": torch.zeros(2)}, (), 0, 1, 0))
    assert weights["w"].tolist() == [1.0, 1.0]


def test_local_dp_leaves_the_server_as_it_is() -> None:
    returned = returned_of([3.0, 4.0], [0.3, 0.4])
    same, updates = LocalDP(clip_norm=0.1).clipped(returned, {})
    assert same is returned
    assert updates.factors.tolist() == [1.0, 1.0]
    assert LocalDP().noise(returned, {}, 0, 1) is None


# Noise on the server


@pytest.mark.slow
def test_noise_has_its_deviation_and_is_drawn_again() -> None:
    size = 200_000
    returned = returned_of(*([[0.0] * size] * 4), size=size)
    privacy = CentralDP(clip_norm=2.0, noise_multiplier=0.5)
    noise = privacy.noise(returned, {}, 7, 3)
    assert noise is not None
    drawn = noise("w", torch.zeros(size, dtype=torch.float64))
    assert drawn is not None
    assert float(drawn.std()) == pytest.approx(0.5 * 2.0 / 4, rel=0.01)
    assert abs(float(drawn.mean())) < 5 * 0.25 / math.sqrt(size)
    others = returned_of(*([[1.0] * size] * 4), size=size)
    again = privacy.noise(others, {}, 7, 3)("w", torch.ones(size, dtype=torch.float64))  # type: ignore[misc]
    assert torch.equal(drawn, again)  # type: ignore[arg-type]
    for seed, number, name in ((8, 3, "w"), (7, 4, "w"), (7, 3, "v")):
        other = privacy.noise(returned, {}, seed, number)(name, torch.zeros(size, dtype=torch.float64))  # type: ignore[misc]
        assert abs(float(torch.corrcoef(torch.stack([drawn, other]))[0, 1])) < 0.02  # type: ignore[list-item]


def test_noise_scales_with_the_clients_of_the_round() -> None:
    """One draw, scaled by 1/n: what a fusion without one of the clients meets."""
    privacy, delta = CentralDP(), torch.zeros(5, dtype=torch.float64)
    three, two = (
        privacy.noise(returned_of(*([[0.0, 0.0]] * count)), {}, 0, 1)("w", delta)  # type: ignore[misc]
        for count in (3, 2)
    )
    assert torch.allclose(three * 3, two * 2)  # type: ignore[operator]


def test_noise_is_what_the_fused_model_is_made_of_beside_clients() -> None:
    returned = returned_of([3.0, 4.0], [0.3, 0.4], [0.0, 0.0])
    privacy = CentralDP(clip_norm=1.0, noise_multiplier=2.0)
    equal, updates = privacy.clipped(returned, {})
    plain = fuse(FedAvg(), equal, {}, updates)
    fused = fuse(FedAvg(), equal, {}, updates, privacy.noise(equal, {}, 0, 1))
    assert set(fused.decomposition.unsent) == {"noise"}
    assert set(fused.noise) == {"w"}  # buffers get none
    noise = fused.decomposition.unsent["noise"]["w"]
    assert float(noise.abs().min()) > 0
    assert torch.allclose(fused.weights["w"] - plain.weights["w"], noise)


def test_no_noise_where_the_multiplier_is_zero() -> None:
    assert CentralDP(noise_multiplier=0).noise(returned_of([1.0, 1.0]), {}, 0, 1) is None


@pytest.mark.parametrize("option", fusion_options())
@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=10)
def test_one_client_moves_an_average_by_no_more_than_epsilon_supposes(option: dict[str, Any], seed: int) -> None:
    """Every fusion that is said to be an average: a client's part replaced by zeros moves it by at most C / n."""
    fusion = _targeted(option, "fusion")
    if beyond_average(fusion) is not None:
        return
    random = torch.Generator().manual_seed(seed)
    count, clip = 6, 0.7
    stack = torch.randn(count, 5, generator=random) * torch.rand(count, 1, generator=random) * 2
    previous = {"w": torch.randn(5, generator=random)}
    privacy = CentralDP(clip_norm=clip)
    moved = []
    for replaced in (stack, stack.index_fill(0, torch.tensor([2]), 0.0)):
        returned = ReturnedModels(
            previous, {"w": previous["w"] + replaced}, [9, 1, 50, 2, 3, 4], [1] * count, frozenset()
        )
        _, updates = privacy.clipped(returned, {})
        moved.append(combined(updates, fusion.shares(updates), "w")[0])
    assert float((moved[0] - moved[1]).norm()) <= clip / count * (1 + 1e-6)


def test_only_averages_have_a_bound() -> None:
    bounded = [
        option.id for option in fusion_options() if beyond_average(_targeted(option.values[0], "fusion")) is None
    ]
    servers = {"fedavgm", "fedadam", "fedyogi", "fedadagrad"}
    assert {"fedavg", "ffa_lora", "fedprox", "norm_clipping", *servers} == set(bounded)
    assert "no plain average" in str(beyond_average(FirstOnly()))


# Adaptive clipping


def test_the_clip_norm_follows_the_formula() -> None:
    """Andrew et al. 2021: C exp(-eta (b - gamma)); 3 of 4 updates are not above C = 1, one of them exactly at it."""
    returned = returned_of([0.6, 0.8], [0.0, 0.0], [0.1, 0.0], [3.0, 4.0])
    privacy = CentralDP(clip_norm=1.0, noise_multiplier=0, adaptive=True, target_quantile=0.5, clip_learning_rate=0.2)
    flat = replace(returned, previous={"w": torch.zeros(2), "count": torch.tensor(0.0)})
    flat = replace(flat, clients={**flat.clients, "w": torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.1, 0.0], [3.0, 4.0]])})
    _, updates = privacy.clipped(flat, {})
    state = privacy.next_state(updates, {}, 0, 1)
    assert float(state[CLIP_NORM]) == pytest.approx(math.exp(-0.2 * (0.75 - 0.5)), rel=1e-12)
    _, updates = privacy.clipped(flat, state)
    assert float(updates.factors[3]) == pytest.approx(float(state[CLIP_NORM]) / 5)
    after = privacy.next_state(updates, state, 0, 2)  # the update of norm 1 is above the norm now: 2 of 4
    assert float(after[CLIP_NORM]) == pytest.approx(float(state[CLIP_NORM]), rel=1e-12)


def test_the_clip_norm_finds_the_quantile() -> None:
    size = 1
    returned = returned_of(*[[float(k)] for k in range(1, 11)], size=size)
    privacy = CentralDP(clip_norm=0.1, noise_multiplier=0, adaptive=True, target_quantile=0.7)
    state: dict[str, torch.Tensor] = {}
    for number in range(1, 200):
        _, updates = privacy.clipped(returned, state)
        state = privacy.next_state(updates, state, 0, number)
    assert 6.5 < float(state[CLIP_NORM]) < 8.5


def test_the_count_is_noised_by_its_share() -> None:
    returned = returned_of(*([[0.0, 0.0]] * 4))
    privacy = CentralDP(adaptive=True, count_noise=3.0, clip_learning_rate=1.0, target_quantile=1.0)
    _, updates = privacy.clipped(returned, {})
    moves = torch.tensor([float(privacy.next_state(updates, {}, seed, 1)[CLIP_NORM]) for seed in range(800)]).log()
    assert float(moves.std()) == pytest.approx(3.0 / 4, rel=0.1)
    assert abs(float(moves.mean())) < 0.1
    assert privacy.next_state(updates, {}, 5, 1) == privacy.next_state(updates, {}, 5, 1)


@pytest.mark.parametrize(
    ("z", "own", "count", "noise"), [(1.0, None, 100, 5.0), (1.0, None, 10, 1.0), (0.8, 2.0, 10, 2.0)]
)
def test_noise_is_split_between_updates_and_count(z: float, own: float | None, count: int, noise: float) -> None:
    """Both together are as private as one mechanism of multiplier z; a client changes the count by a half."""
    for_updates, for_count = CentralDP(noise_multiplier=z, adaptive=True, count_noise=own).split(count)
    assert for_count == noise
    assert for_updates > z
    assert for_updates**-2 + (0.5 / for_count) ** 2 == pytest.approx(z**-2)
    drawn = CentralDP(noise_multiplier=z, adaptive=True, count_noise=own)
    fixed = CentralDP(noise_multiplier=z)
    returned, zeros = returned_of(*([[0.0, 0.0]] * count)), torch.zeros(3, dtype=torch.float64)
    more, less = (privacy.noise(returned, {}, 0, 1)("w", zeros) for privacy in (drawn, fixed))  # type: ignore[misc]
    assert torch.allclose(more / less, torch.full((3,), for_updates / z, dtype=torch.float64))  # type: ignore[operator]


# Noise at the client


def test_a_client_clips_and_noises_its_own_update() -> None:
    size = 100_000
    start = {"w": torch.full((size,), 5.0), "b": torch.tensor(1.0), "count": torch.tensor(0)}

    def trained() -> dict[str, torch.Tensor]:
        return {"w": torch.full((size,), 6.0), "b": torch.tensor(3.0), "count": torch.tensor(7)}

    exact = trained()
    LocalDP(clip_norm=2.0, noise_multiplier=0).privatise(Submission(exact, start, {"count"}, 0, 1, 4))
    factor = 2.0 / math.sqrt(size + 4)
    assert torch.allclose(exact["w"], torch.full((size,), 5.0 + factor))
    assert float(exact["b"]) == pytest.approx(1 + 2 * factor)
    assert int(exact["count"]) == 7
    noisy, again, other = trained(), trained(), trained()
    privacy = LocalDP(clip_norm=2.0, noise_multiplier=0.3)
    for weights, client in ((noisy, 4), (again, 4), (other, 5)):
        privacy.privatise(Submission(weights, start, {"count"}, 0, 1, client))
    assert noisy["w"].dtype == torch.float32
    assert float((noisy["w"] - exact["w"]).std()) == pytest.approx(0.6, rel=0.02)
    assert abs(float((noisy["w"] - exact["w"]).mean())) < 0.01
    assert float(noisy["b"]) != float(exact["b"])
    assert torch.equal(noisy["w"], again["w"])
    assert not torch.equal(noisy["w"], other["w"])


def test_a_small_update_is_not_scaled_up() -> None:
    weights, start = {"w": torch.tensor([1.5, 1.0])}, {"w": torch.tensor([1.0, 1.0])}
    LocalDP(clip_norm=2.0, noise_multiplier=0).privatise(Submission(weights, start, (), 0, 1, 0))
    assert weights["w"].tolist() == [1.5, 1.0]
    LocalDP(clip_norm=2.0, noise_multiplier=0).privatise(
        Submission(start, {"w": torch.tensor([1.0, 1.0])}, (), 0, 1, 0)
    )
    assert start["w"].tolist() == [1.0, 1.0]


# Epsilon


@pytest.mark.parametrize(("z", "times"), [(1.0, 1), (0.5, 1), (1.0, 15), (4.0, 100), (0.05, 3)])
def test_epsilon_of_composed_gaussians_is_exact(z: float, times: int) -> None:
    """delta(eps) = Phi(m/2 - eps/m) - e^eps Phi(-m/2 - eps/m) with m = sqrt(times) / z (Balle and Wang 2018)."""
    delta, m = 1e-4, math.sqrt(times) / z
    epsilon = composed(z, times, delta)
    first = norm.cdf(m / 2 - epsilon / m)
    second = math.exp(epsilon + norm.logcdf(-m / 2 - epsilon / m))
    assert first - second == pytest.approx(delta, rel=1e-4)
    accountant = dp_accounting.rdp.RdpAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(z), times)
    assert epsilon < accountant.get_epsilon(delta) < 1.3 * epsilon + 0.3


def test_epsilon_without_noise_or_without_rounds() -> None:
    assert composed(0.0, 3, 1e-3) == math.inf
    assert composed(1.0, 0, 1e-3) == 0.0
    assert amplified(0.0, 3, 100, 10, 1e-3) == math.inf


@pytest.mark.slow
def test_epsilon_of_sampled_clients() -> None:
    """Against the bound of Wang et al. 2019 at order 2, by hand, and as it must move."""
    z, rounds, clients, per_round, delta = 4.0, 50, 1000, 10, 1e-4
    epsilon = amplified(z, rounds, clients, per_round, delta)
    rate, exponent = per_round / clients, 2 / (2 * (z / 2) ** 2)  # of the Gaussian at order 2, twice the sensitivity
    order_2 = math.log(1 + rate**2 * min(4 * math.expm1(exponent), 2 * math.exp(exponent)))
    by_hand = rounds * order_2 + math.log(1 - 1 / 2) - math.log(delta * 2)
    assert 0 < epsilon <= by_hand
    assert epsilon < composed(z / 2, rounds, delta) / 4
    assert amplified(z, rounds, clients, 2 * per_round, delta) > epsilon
    assert amplified(z, 2 * rounds, clients, per_round, delta) > epsilon


def ledger(**changes: Any) -> Ledger:
    return replace(Ledger(50, 1000, 10, "uniform", [3] + [0] * 999, FedAvg()), **changes)


@pytest.mark.slow
def test_the_server_accounts_for_the_sampling_that_was_done() -> None:
    privacy, delta = CentralDP(noise_multiplier=8.0), 1000**-1.1
    known = composed(8.0, 50, delta)
    everyone = privacy.spent(ledger(per_round=1000, participations=[50] * 1000))
    assert everyone.epsilon == pytest.approx(known)
    assert everyone.delta == pytest.approx(delta)
    assert "no amplification" in everyone.mechanism
    secret = privacy.spent(ledger(participations=[50] + [0] * 999))
    assert secret.epsilon == pytest.approx(amplified(8.0, 50, 1000, 10, delta))
    assert secret.epsilon < known
    assert "drawn in secret" in secret.mechanism
    for change in ({"sampling": "round_robin"}, {"sampling": "weighted"}, {"sampling": "markov"}, {"regular": False}):
        most = privacy.spent(ledger(**change, participations=[2, 7] + [0] * 998))
        assert most.epsilon == pytest.approx(composed(8.0, 7, delta))
        assert "at most 7 times" in most.mechanism


@pytest.mark.slow
def test_the_smaller_of_two_bounds_is_given() -> None:
    """With little noise the bound for secret draws is the looser one, and nothing need be secret."""
    spent = CentralDP(noise_multiplier=0.5, delta=1e-5).spent(ledger())
    assert spent.epsilon == pytest.approx(composed(0.5, 3, 1e-5))
    assert spent.epsilon < amplified(0.5, 50, 1000, 10, 1e-5)


def test_a_client_that_notices_itself_needs_twice_the_noise() -> None:
    """Any two clipped updates lie up to twice the clip norm apart; nothing amplifies; any fusion will do."""
    for fusion in (FedAvg(), FirstOnly()):
        spent = LocalDP(noise_multiplier=3.0, delta=1e-5).spent(ledger(fusion=fusion))
        assert spent.epsilon == pytest.approx(composed(1.5, 3, 1e-5))


def test_a_fusion_without_bound_has_no_epsilon() -> None:
    spent = CentralDP().spent(ledger(fusion=FirstOnly()))
    assert spent.epsilon is None
    assert not spent.meaningful
    assert told(spent).startswith(
        "epsilon unknown: no meaningful guarantee (central DP: no guarantee is known for fusion="
    )
    assert figures(spent)["epsilon"] is None


def test_scaffold_sends_more_than_updates() -> None:
    scaffold = pytest.importorskip("provfl_cli.fusion.scaffold")
    fusion = next(_targeted(option.values[0], "fusion") for option in fusion_options() if option.id == "scaffold")
    assert type(fusion).__module__ == scaffold.__name__
    for privacy in (CentralDP(), LocalDP()):
        spent = privacy.spent(ledger(fusion=fusion))
        assert spent.epsilon is None
        assert "control variates" in spent.mechanism


@pytest.mark.parametrize("privacy", [CentralDP(noise_multiplier=0), LocalDP(noise_multiplier=0)])
def test_without_noise_epsilon_is_infinite(privacy: CentralDP | LocalDP) -> None:
    spent = privacy.spent(ledger())
    assert spent.epsilon == math.inf
    assert "epsilon infinite, there is no noise" in told(spent)
    assert figures(spent)["epsilon"] is None


@pytest.mark.slow
def test_an_epsilon_above_100_is_called_by_its_name() -> None:
    """The paper's own noise, 0.003 of the clip norm, comes out near 1e5 and above."""
    many = CentralDP(noise_multiplier=0.003).spent(ledger(per_round=1000, participations=[50] * 1000))
    assert many.epsilon is not None
    assert many.epsilon > 1e5
    assert "no meaningful guarantee" in told(many)
    few = CentralDP(noise_multiplier=8.0).spent(ledger(per_round=1000, participations=[50] * 1000))
    assert few.meaningful
    assert "no meaningful guarantee" not in told(few)
    assert "\n" not in told(few)
    assert figures(few) == {"epsilon": few.epsilon, "delta": few.delta, "privacy": told(few)}
    assert not CentralDP(noise_multiplier=8.0, delta=0.001).spent(ledger()).meaningful  # publish one of 1000: allowed
    assert figures(None) == {"epsilon": None, "delta": None, "privacy": None}


def test_a_delta_is_called_what_it_is() -> None:
    """Five clients: with clients^-1.1, 0.17, every sixth promise would fail; of 6,000 examples delta is 7e-5."""
    few = {"clients": 5, "per_round": 5, "participations": [3] * 5}
    default = CentralDP(noise_multiplier=8.0).spent(ledger(**few, examples=6000))
    assert default.delta == pytest.approx(6000**-1.1)
    assert default.delta < 1 / 6000
    assert default.meaningful
    assert "for a client with all its data (" in told(default)
    unknown = CentralDP(noise_multiplier=8.0).spent(ledger(**few))
    assert not unknown.meaningful
    assert (
        "at delta 0.17, for a client with all its data: no meaningful guarantee, with a probability of 0.17 the "
        "promise fails altogether, which has to be below 0.01 here (5 clients)"
    ) in told(unknown)
    wide = CentralDP(noise_multiplier=8.0, delta=1e-3).spent(ledger(**few, examples=6000))
    assert wide.meaningful
    assert "not below one over the 6,000 training examples" in told(wide)
    local = LocalDP(noise_multiplier=8.0).spent(ledger(**few, examples=6000))
    assert local.delta == default.delta
    assert CentralDP().spent(ledger(examples=10)).delta == pytest.approx(1000**-1.1), "the more of the two"


def test_the_ledger_counts_what_was_fused() -> None:
    federation: Any = SimpleNamespace(
        mode="sync", clients_per_round=2, sampling="uniform", dropout=0.0, stragglers=0.0, joins={}, leaves={}
    )
    fused = [[0, 1], [1, 3], [1, 2]]
    assert ledger_of(federation, FedAvg(), 5, fused) == Ledger(3, 5, 2, "uniform", [1, 3, 1, 1, 0], FedAvg())
    for change in ({"dropout": 0.1}, {"stragglers": 0.5}, {"joins": {1: 2}}, {"leaves": {1: 2}}, {"mode": "fedbuff"}):
        assert not ledger_of(SimpleNamespace(**vars(federation) | change), FedAvg(), 5, fused).regular  # type: ignore[arg-type]
    everyone: Any = SimpleNamespace(**vars(federation) | {"clients_per_round": None})
    assert ledger_of(everyone, FedAvg(), 5, fused).per_round == 5


# Settings


@pytest.mark.parametrize("name", tree.options("privacy"))
def test_every_option_is_its_dataclass_with_its_defaults(name: str) -> None:
    content = OmegaConf.to_container(OmegaConf.load(tree.option_file("privacy", name)))
    privacy = _targeted(content, "privacy")
    assert privacy == type(privacy)()
    assert privacy.private == (name != "none")
    if name == "secure_aggregation":
        with pytest.raises(InputError, match="only the sum of the clients' updates"):
            privacy.check(None, FedAvg())  # type: ignore[arg-type]
    else:
        privacy.check(None, FedAvg())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "wrong", "says"),
    [
        (CentralDP, {"clip_norm": 0}, r"privacy\.clip_norm=0: must be above 0"),
        (CentralDP, {"clip_norm": math.inf}, r"privacy\.clip_norm=inf"),
        (CentralDP, {"noise_multiplier": -1}, r"privacy\.noise_multiplier=-1: must be 0 or more"),
        (CentralDP, {"noise_multiplier": math.inf}, r"privacy\.noise_multiplier=inf"),
        (CentralDP, {"delta": 0.0}, r"privacy\.delta=0\.0: must be above 0 and below 1"),
        (CentralDP, {"target_quantile": 1.2}, r"privacy\.target_quantile=1\.2"),
        (CentralDP, {"clip_learning_rate": 0.0}, r"privacy\.clip_learning_rate=0\.0"),
        (
            CentralDP,
            {"noise_multiplier": 1.0, "count_noise": 0.5},
            r"privacy\.count_noise=0\.5: .* above 0\.5",
        ),
        (LocalDP, {"clip_norm": -1}, r"privacy\.clip_norm=-1"),
        (LocalDP, {"noise_multiplier": -1}, r"privacy\.noise_multiplier=-1"),
        (LocalDP, {"delta": 1}, r"privacy\.delta=1"),
    ],
)
def test_a_wrong_setting_is_answered(kind: type, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        kind(**wrong)


def test_a_missing_accountant_is_named_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provfl_cli.fusion.accounting.find_spec", lambda name: None)
    federation: Any = None
    for privacy in (CentralDP(), LocalDP()):
        with pytest.raises(InputError, match=r"pip install 'provfl\[privacy\]'"):
            privacy.check(federation, FedAvg())
    NoPrivacy().check(federation, FedAvg())


def test_settings_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from provfl_cli.fusion.privacy import CentralDP\n"
        "CentralDP().check(None, None)\n"
        "print([name for name in ('torch._C', 'numpy._core', 'dp_accounting', 'scipy') if name in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tree.conf_dir().parent
    )
    assert out.stdout.strip() == "[]"


# Models


def test_a_model_with_statistics_of_the_data_is_refused() -> None:
    check_model(NoPrivacy(), SmallNet())
    for privacy in (CentralDP(), LocalDP()):
        with pytest.raises(InputError, match=r"SmallNet sends statistics .*norm\.running_mean.*model\.norm=group"):
            check_model(privacy, SmallNet())
        check_model(privacy, build(Model("provfl_cli.models.lenet.lenet", "lenet"), Pictures(1, 28), 10, 0))


def test_a_model_with_tied_weights_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    check_model(CentralDP(), model)
    model[1].weight = model[0].weight
    with pytest.raises(InputError, match="several names"):
        check_model(CentralDP(), model)


def torchvision_model(name: str, **options: Any) -> nn.Module:
    return build(Model(f"provfl_cli.models.torchvision.{name}", name, options=options), Pictures(1, 32), 10, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_group_norm_in_place_of_batch_norm(name: str) -> None:
    model, before = torchvision_model(name, norm="group"), torchvision_model(name, norm="batch")
    check_model(CentralDP(), model)
    modules, old = dict(model.named_modules()), dict(before.named_modules())
    assert modules.keys() == old.keys()
    replaced = [key for key, module in old.items() if isinstance(module, nn.BatchNorm2d)]
    for key in replaced:
        assert isinstance(modules[key], nn.GroupNorm)
        assert modules[key].num_channels == old[key].num_features
        assert modules[key].num_groups == 32  # it divides every width of these two
    assert len(replaced) == {"resnet18": 20, "densenet121": 121}[name]
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True))
    inputs, labels = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for step in range(4):
        logits = model(inputs)
        if step == 0:  # examples are independent, in training as well
            assert torch.allclose(model(inputs[:1]), logits[:1], atol=1e-4)
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


def test_fewer_groups_where_32_do_not_divide() -> None:
    model = _normalised(nn.Sequential(nn.Conv2d(1, 24, 3), nn.BatchNorm2d(24), nn.BatchNorm2d(7)), "group")
    assert [module.num_groups for module in model if isinstance(module, nn.GroupNorm)] == [8, 1]


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_a_wrong_normalisation_is_answered(name: str) -> None:
    with pytest.raises(InputError, match=r"model\.norm=layer"):
        torchvision_model(name, norm="layer")
    model = Model(f"provfl_cli.models.torchvision.{name}", name, pretrained=True, options={"norm": "group"})
    with pytest.raises(InputError, match=r"model\.norm=group: the published weights"):
        build(model, Pictures(1, 32), 10, 0)
