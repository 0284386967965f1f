"""Counterfactual models against a round fused by hand, and what Shapley values and leave-one-out must add up to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations as orders_of
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from provfl_cli.attribution.counterfactual import fused_again, models, outcomes
from provfl_cli.attribution.leave_one_out import LeaveOneOut
from provfl_cli.attribution.method import Case
from provfl_cli.attribution.shapley import Shapley, exact, sampled
from provfl_cli.config.tree import conf_dir, options
from provfl_cli.config.validate import _targeted, provenance_preset
from provfl_cli.data.federated import Faults
from provfl_cli.errors import InputError, RunError
from provfl_cli.evaluation.contributions import tidy
from provfl_cli.evaluation.metrics import localization
from provfl_cli.federation import round as federation_round
from provfl_cli.federation.client import steps_made
from provfl_cli.federation.train import federated_rounds
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.fednova import FedNova, local_norm
from provfl_cli.fusion.krum import Krum
from provfl_cli.fusion.median import Median
from provfl_cli.fusion.multi_krum import MultiKrum
from provfl_cli.fusion.privacy import CentralDP, NoPrivacy
from provfl_cli.fusion.trimmed_mean import TrimmedMean
from provfl_cli.fusion.updates import ReturnedModels
from provfl_cli.provenance.tracing import trace
from provfl_cli.run.summary import _faithfulness
from provfl_cli.seeds import generator
from provfl_cli.store.rounds import Round

from .federations import make_config, make_data, make_model
from .lineages import Work, chain, composed_fusion, perturbed
from .traced_rounds import traced_round

DOUBLE = torch.float64
CPU = torch.device("cpu")
INPUTS, FEATURES, CLASSES = 6, 5, 3


class Straight(nn.Module):
    """A linear layer and an untrained normalisation, whose statistics are buffers that it only carries along."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Linear(FEATURES, CLASSES, dtype=DOUBLE)
        self.register_buffer("seen", torch.zeros(2, dtype=DOUBLE))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits(inputs)


BUFFERS = frozenset({"seen"})


def made_round(folder: Path, fusion: Any, count: int, late: bool = True, noise: float = 0.02) -> Round:
    """The second of two rounds of `count` clients, with clip factors, noise, momentum and late work."""

    def work(number: int, model: dict[str, Tensor], before: list[dict[str, Tensor]]) -> Work:
        bases = {2: before[-1]} if before and late else {}
        sent = {k: (10 + 3 * k, perturbed(bases.get(k, model), 0.3, 100 * number + k)) for k in range(count)}
        return Work(sent, bases, {k: 0.5 + 0.05 * k for k in range(count)} if noise else {}, noise)

    start = perturbed(Straight().state_dict(), 1.0, 5)
    return chain(folder, fusion, start, work, 2, None, BUFFERS)[-1]


def case_of(stored: Round, fusion: Any, **changes: Any) -> Case:
    """A case with random inputs, whose classes are whatever."""
    random = torch.Generator().manual_seed(11)
    classes = np.arange(INPUTS) % CLASSES
    fields: dict[str, Any] = {
        "model": Straight(),
        "inputs": torch.randn(INPUTS, FEATURES, generator=random, dtype=DOUBLE),
        "numbers": np.arange(INPUTS),
        "labels": classes,
        "classes": classes,
        "stored": stored,
        "fusion": fusion,
        "privacy": NoPrivacy(),
        "form": None,
        "provenance": provenance_preset("tracefl"),  # explains the plain logit
        "seed": 4,
        "device": CPU,
    }
    return Case(**{**fields, **changes})


@dataclass(frozen=True)
class RoundOf:
    """A round of clients that are given, as far as a counterfactual looks at it."""

    stack: dict[str, Tensor]
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    examples: tuple[int, ...]
    number: int = 1
    buffers: frozenset[str] = frozenset()
    buffered: None = None

    @property
    def clients(self) -> tuple[int, ...]:
        return tuple(range(len(self.examples)))

    def weights(self) -> dict[str, Tensor]:
        return self.after

    def previous(self) -> dict[str, Tensor]:
        return self.before

    def client_stack(self) -> dict[str, Tensor]:
        return self.stack

    def bases(self) -> dict[int, dict[str, Tensor]]:
        return {}

    def server_state(self) -> dict[str, Tensor]:
        return {}

    def as_sent(self) -> RoundOf:
        return self


def refusing(values: list[Any], examples: list[int], fusion: Any, left: list[int], **changes: Any) -> list[Any]:
    """What becomes of the one parameter `w`, 0 before, when only the clients `left` take part."""
    sent = torch.tensor(values, dtype=DOUBLE)
    zero = torch.zeros(sent.shape[1:], dtype=DOUBLE)
    stored: Any = RoundOf({"w": sent}, {"w": zero}, {"w": zero}, tuple(examples))
    values_of_w: list[Any] = fused_again(case_of(stored, fusion, **changes), left)["w"].tolist()
    return values_of_w


def test_refused_fedavg_by_hand() -> None:
    # 1 and 3 examples are left of 1, 2 and 3: a quarter of 4, three quarters of 8.
    assert refusing([[4.0], [100.0], [8.0]], [1, 2, 3], FedAvg(), [0, 2]) == [0.25 * 4 + 0.75 * 8]


def test_refused_median_by_hand() -> None:
    # Of 1, 2, 9, 30 without 9: the middle one of 1, 2, 30; with it, (2 + 9) / 2.
    values = [[1.0], [2.0], [9.0], [30.0]]
    assert refusing(values, [1, 1, 1, 1], Median(), [0, 1, 3]) == [2.0]
    assert refusing(values, [1, 1, 1, 1], Median(), [0, 1, 2, 3]) == [5.5]


def test_refused_trimmed_mean_keeps_its_count() -> None:
    # A fifth of five clients is one from each end, and stays one when four are left: (2 + 3) / 2, not their mean.
    values = [[1.0], [2.0], [3.0], [4.0], [90.0]]
    assert refusing(values, [1] * 5, TrimmedMean(fraction=0.2), [0, 1, 2, 4]) == [2.5]


def test_refused_krum_by_hand() -> None:
    # Six clients, one attacker, scores over the 3 nearest: 0.36 + 1.96 + 2.56 at 1.6 is the least (5.36 at 1.0).
    # Without it 5 are left, scores over the 2 nearest: 1 + 9 at 0.0, 1 + 4 at 1.0, 4 + 9 at 3.0.
    values = [[0.0], [1.0], [1.6], [3.0], [20.0], [21.0]]
    assert refusing(values, [1] * 6, Krum(attackers=1), [0, 1, 2, 3, 4, 5]) == [1.6]
    assert refusing(values, [1] * 6, Krum(attackers=1), [0, 1, 3, 4, 5]) == [1.0]


def test_refused_fednova_counts_each_client_s_own_steps() -> None:
    # 2, 4 and 8 steps, equal examples; without the second: tau_eff = 5, so 5/2 of 6 and 5/8 of 16, halved.
    assert local_norm(8, 0.0) == 8
    steps = {"steps": [2, 4, 8]}
    assert refusing([[6.0], [-1.0], [16.0]], [1, 1, 1], FedNova(), [0, 2], **steps) == [(15 + 10) / 2]
    with pytest.raises(RunError, match="steps"):
        refusing([[6.0], [-1.0], [16.0]], [1, 1, 1], FedNova(), [0, 2])


def test_refused_central_dp_meets_the_same_draw() -> None:
    # Norms 5 and 1 are left, clipped at 2.5: half of (3, 4) and all of (0, 1), plus the noise for two clients.
    privacy = CentralDP(clip_norm=2.5, noise_multiplier=0.4)
    values = refusing([[3.0, 4.0], [7.0, 7.0], [0.0, 1.0]], [5, 1, 2], FedAvg(), [0, 2], privacy=privacy)
    drawn = torch.randn(2, generator=generator(4, "noise", 1, "w"), dtype=DOUBLE)
    assert values == pytest.approx((torch.tensor([0.75, 1.5]) + 0.4 * 2.5 / 2 * drawn).tolist(), rel=1e-12)


def quick(names: list[str], *few: str) -> list[Any]:
    """Each fusion a test, those that are not among the few a slow one."""
    return [pytest.param(name, marks=() if name in few else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", quick([*options("fusion")], "fedavgm"))
def test_refusing_nobody_or_everybody(tmp_path: Path, name: str) -> None:
    """Fusing again with all clients gives the round's model; without any, the server keeps the previous one."""
    fusion = composed_fusion(name)
    stored = made_round(tmp_path, fusion, 7, noise=0.0)
    case = case_of(stored, fusion, steps=[5 + k for k in range(7)])
    again = fused_again(case, range(7))
    whole, none = models(case, "refuse", [(), range(7)])
    assert whole is not None
    assert none is not None
    for key, tensor in stored.weights().items():
        assert torch.equal(again[key], tensor)
        assert torch.equal(whole[key], tensor)
        assert torch.equal(none[key], stored.previous()[key])


@pytest.mark.parametrize("name", quick(["fedavg", "fedadam", "trimmed_mean", "krum"], "fedadam"))
def test_withholding_takes_the_clients_parts_away(tmp_path: Path, name: str) -> None:
    """From the model of one coalition to that of the next; all withheld leaves `W_prev + U`; buffers stay."""
    stored = made_round(tmp_path, composed_fusion(name), 7)
    case = case_of(stored, composed_fusion(name))
    coalitions = [(), (1,), (1, 2), (0, 3, 5), range(7), (), (6,)]
    for coalition, model in zip(coalitions, models(case, "withhold", coalitions), strict=True):
        assert model is not None
        for key, whole in stored.weights().items():
            expected = whole.clone()
            for client in coalition if key not in BUFFERS else ():
                base = stored.bases().get(client, stored.previous())[key]
                own = stored.client_stack()[key][client] - base
                factor = stored.decomposition.example_weights.view(-1, *(1,) * own.dim())
                if key in stored.decomposition.multipliers:
                    factor = factor * stored.decomposition.multipliers[key].rows(slice(None), tuple(own.shape))
                expected -= factor.expand(7, *own.shape)[client] * own
            assert torch.allclose(model[key], expected, rtol=1e-12, atol=1e-12)
            if len(coalition) == 7 and key not in BUFFERS:
                unsent = sum(part[key] for part in stored.decomposition.unsent.values())
                assert torch.allclose(model[key], stored.previous()[key] + unsent, rtol=1e-12, atol=1e-12)


def test_refusing_averages_the_buffers_of_the_others(tmp_path: Path) -> None:
    stored = made_round(tmp_path, FedAvg(), 4, noise=0.0)
    (model,) = models(case_of(stored, FedAvg()), "refuse", [(1,)])
    assert model is not None
    sizes = torch.tensor([10.0, 16.0, 19.0], dtype=DOUBLE)
    expected = (sizes / sizes.sum()) @ stored.client_stack()["seen"][[0, 2, 3]]
    assert torch.allclose(model["seen"], expected)


def test_refused_late_clients_keep_their_base(tmp_path: Path) -> None:
    """Client 2 is the second of those left; its update is clipped from its own base, not from the global model."""
    stored = made_round(tmp_path, FedAvg(), 4, noise=0.0)
    privacy = CentralDP(clip_norm=0.5, noise_multiplier=0.0)
    (model,) = models(case_of(stored, FedAvg(), privacy=privacy), "refuse", [(1,)])
    assert model is not None
    parameters, before = ["logits.weight", "logits.bias"], stored.previous()
    sums = {name: before[name].clone() for name in parameters}
    for client in (0, 2, 3):
        base = stored.bases()[2] if client == 2 else before
        own = {name: stored.client_stack()[name][client] - base[name] for name in parameters}
        norm = math.sqrt(sum(float(part.square().sum()) for part in own.values()))
        assert norm > 0.5
        for name in parameters:
            sums[name] += (0.5 / norm * own[name] + base[name] - before[name]) / 3
    assert not torch.equal(stored.bases()[2]["logits.bias"], before["logits.bias"])
    for name in parameters:
        assert torch.allclose(model[name], sums[name], rtol=1e-12, atol=1e-12)


LINEAR = [
    "fedavg",
    "fednova",
    "bulyan",
    "krum",
    "fedavgm",
    "fedadam",
    "median",
    "trimmed_mean",
    "geometric_median",
    "multi_krum",
    "norm_clipping",
]


@pytest.mark.parametrize("name", quick(LINEAR, "fedadam", "trimmed_mean"))
def test_on_a_linear_model_all_three_are_one(tmp_path: Path, name: str) -> None:
    """Withhold, a linear value: Shapley = leave-one-out = (updates, fusion weighting, beta 1, no mask)."""
    fusion = composed_fusion(name)
    stored = made_round(tmp_path, fusion, 7)
    case = case_of(stored, fusion)
    one_out = LeaveOneOut("withhold", "target").attribute(case)
    whole = Shapley("withhold", "target").attribute(case)
    few = Shapley("withhold", "target", exact_up_to=0, permutations=3, tolerance=0.0).attribute(case)
    settings = replace(provenance_preset("faithful"), target="logit", layer_decay=1.0, threshold=None, batch_size=None)
    traced = trace(case.model, case.inputs, stored, settings, case.classes)
    assert np.abs(traced.values).max() > 1e-3
    assert one_out.target == whole.target == "logit"
    scale = np.abs(traced.values).max()
    for attributed in (one_out, whole, few):
        assert np.abs(attributed.values - traced.values).max() < 1e-12 * max(scale, 1)
        assert (attributed.candidates == traced.candidates).all()
    assert few.errors is not None
    assert few.errors.max() < 1e-12  # every order says the same


def test_leave_one_out_is_the_loss_of_log_probability_and_says_what_is_predicted_instead(tmp_path: Path) -> None:
    stored = made_round(tmp_path, FedAvg(), 4)
    count = 300
    inputs = torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    case = case_of(stored, FedAvg(), inputs=inputs, classes=np.arange(count) % CLASSES)
    for kind in ("withhold", "refuse"):
        attributed = LeaveOneOut(kind).attribute(case)
        assert attributed.without is not None
        for client in range(4):
            (model,) = models(case, kind, [(client,)])
            assert model is not None

            def log_probabilities(state: Any) -> Tensor:
                return (case.inputs @ state["logits.weight"].T + state["logits.bias"]).log_softmax(1)

            lost = log_probabilities(stored.weights()) - log_probabilities(model)
            expected = lost[torch.arange(count), torch.as_tensor(case.classes)]
            assert attributed.values[:, client] == pytest.approx(expected.numpy(), abs=1e-12)
            assert np.array_equal(attributed.without[:, client], log_probabilities(model).argmax(1).numpy())
        assert np.ptp(attributed.without, axis=1).any(), "the same whoever is left out would prove nothing"
        assert attributed.errors is None
        assert np.abs(attributed.values).max() > 1e-3


@pytest.mark.parametrize("kind", ["withhold", "refuse"])
def test_exact_shapley_against_all_orders(tmp_path: Path, kind: str) -> None:
    """Log-probability is not linear: the mean over all 24 orders of what a client adds, one model at a time."""
    stored = made_round(tmp_path, composed_fusion("fedavgm"), 4)
    case = case_of(stored, composed_fusion("fedavgm"))

    @cache
    def worth(coalition: frozenset[int]) -> np.ndarray:
        return next(outcomes(case, kind, [frozenset(range(4)) - coalition], "log_probability")).values

    expected = np.zeros((INPUTS, 4))
    for order in orders_of(range(4)):
        for at, client in enumerate(order):
            expected[:, client] += worth(frozenset(order[: at + 1])) - worth(frozenset(order[:at]))
    attributed = Shapley(kind).attribute(case)
    assert attributed.values == pytest.approx(expected / 24, abs=1e-12)
    total = worth(frozenset(range(4))) - worth(frozenset())
    assert attributed.values.sum(1) == pytest.approx(total, abs=1e-12)
    one_out = LeaveOneOut(kind).attribute(case)
    # a value for which the two agree would prove nothing
    assert np.abs(one_out.values - attributed.values).max() > 1e-3


def game(seed: int, players: int, inputs: int = 3) -> Any:
    """Any value function of coalitions."""
    values = np.random.default_rng(seed).normal(size=(2**players, inputs))

    def worth(coalition: frozenset[int]) -> np.ndarray:
        return np.asarray(values[sum(1 << player for player in coalition)])

    return worth


def test_sampled_values_are_efficient_and_their_errors_honest() -> None:
    players, worth = range(6), game(2, 6)
    truth = exact(list(players), worth)
    everybody = frozenset(players)
    assert truth.sum(1) == pytest.approx(worth(everybody) - worth(frozenset()), abs=1e-12)
    random = np.random.default_rng(0)
    within = []
    for _ in range(40):
        orders = [random.permutation(6).tolist() for _ in range(30)]
        estimates, errors = sampled(list(players), orders, worth, 0.0)
        assert estimates.sum(1) == pytest.approx(worth(everybody) - worth(frozenset()), abs=1e-12)
        within.append((np.abs(estimates - truth) < 2 * errors).mean())
    assert 0.9 < np.mean(within) < 0.99  # two standard errors: 95%
    everything, _ = sampled(list(players), list(orders_of(players)), worth, 0.0)
    assert everything == pytest.approx(truth, abs=1e-12)


def test_an_order_is_left_when_all_inputs_are_near_the_whole() -> None:
    """The last two of four clients add next to nothing to either input: they share what is left."""
    asked = []
    by_size = np.array([[0.0, 0.0], [1.0, 0.5], [4.996, 2.0], [4.998, 2.0], [5.0, 2.0]])

    def worth(coalition: frozenset[int]) -> np.ndarray:
        asked.append(len(coalition))
        return np.asarray(by_size[len(coalition)])

    estimates, _ = sampled([0, 1, 2, 3], [[0, 1, 2, 3]] * 2, worth, 0.01)
    assert estimates == pytest.approx(np.array([[1.0, 3.996, 0.002, 0.002], [0.5, 1.5, 0.0, 0.0]]))
    assert asked == [4, 0, 1, 2, 1, 2]
    asked.clear()
    sampled([0, 1, 2, 3], [[0, 1, 2, 3]] * 2, worth, 0.003)  # the first input is not near enough after two
    assert asked == [4, 0, 1, 2, 3, 1, 2, 3]


def test_sampling_asks_for_each_coalition_once_and_depends_on_the_seed_alone(tmp_path: Path) -> None:
    stored = made_round(tmp_path, FedAvg(), 4)
    case = case_of(stored, FedAvg())
    method = Shapley("refuse", exact_up_to=3, permutations=40, tolerance=0.0)
    first, second = method.attribute(case), method.attribute(case)
    assert np.array_equal(first.values, second.values)
    assert not np.array_equal(first.values, method.attribute(replace(case, seed=5)).values)
    assert "40 permutations, 16 coalitions" in first.note
    assert first.target == "log_probability"
    truth = Shapley("refuse").attribute(case)
    assert first.errors is not None
    assert first.values.sum(1) == pytest.approx(truth.values.sum(1), abs=1e-12)
    assert (np.abs(first.values - truth.values) < 5 * first.errors + 1e-12).all()


def test_a_client_that_was_not_used_has_no_part_when_withheld(tmp_path: Path) -> None:
    fusion = Krum(attackers=1)
    stored = made_round(tmp_path, fusion, 7)
    withheld = Shapley("withhold").attribute(case_of(stored, fusion))
    assert withheld.candidates.sum() == 1
    assert (withheld.values[:, ~withheld.candidates] == 0).all()
    assert (withheld.values[:, withheld.candidates] != 0).all()
    refused = LeaveOneOut("refuse").attribute(case_of(stored, fusion))
    assert not np.isnan(refused.values).any()


def test_where_the_conditions_fail_values_are_missing(tmp_path: Path) -> None:
    fusion = Krum(attackers=2)  # needs 7 clients
    case = case_of(made_round(tmp_path, fusion, 7), fusion)
    for method in (LeaveOneOut(), Shapley(), Shapley(exact_up_to=2, permutations=2)):
        attributed = method.attribute(case)
        assert np.isnan(attributed.values).any()
        assert not attributed.candidates.any()
        assert "fusion" in attributed.note


def test_a_damaged_file_is_no_missing_value(tmp_path: Path) -> None:
    stored = made_round(tmp_path, FedAvg(), 4)
    case = case_of(replace(stored, checksums={**stored.checksums, "clients.safetensors": "0"}), FedAvg())
    with pytest.raises(RunError, match="damaged"):
        LeaveOneOut().attribute(case)


def test_settings_are_checked_before_anything_runs() -> None:
    with pytest.raises(InputError, match="counterfactual=forget"):
        LeaveOneOut("forget")
    with pytest.raises(InputError, match="value=loss"):
        Shapley(value="loss")
    with pytest.raises(InputError, match="exact_up_to=40"):
        Shapley(exact_up_to=40)
    with pytest.raises(InputError, match="permutations=1"):
        Shapley(permutations=1)
    with pytest.raises(InputError, match="tolerance=nan"):
        Shapley(tolerance=math.nan)
    federation = replace(make_config().federation, clients=5)
    krum: Any = make_config(federation=federation, fusion=Krum(attackers=1))
    with pytest.raises(InputError, match=r"fusion=krum does not work with 4 of the 5 .*counterfactual=withhold"):
        LeaveOneOut().check(krum.run_settings)
    with pytest.raises(InputError, match="does not work with 1 of the 5 clients"):
        Shapley().check(krum.run_settings)
    with pytest.raises(
        InputError, match="fusion=trimmed_mean does not work with 1 of"
    ):  # one from each end of five, kept
        Shapley().check(make_config(federation=federation, fusion=TrimmedMean(fraction=0.2)).run_settings)
    LeaveOneOut("withhold").check(krum.run_settings)
    Shapley("withhold").check(krum.run_settings)
    LeaveOneOut().check(make_config(federation=federation, fusion=MultiKrum(attackers=0)).run_settings)
    Shapley().check(make_config().run_settings)
    LeaveOneOut().check(make_config(federation=replace(federation, clients=1)).run_settings)


def test_the_options_are_the_methods() -> None:
    made = {}
    for name in ("leave_one_out", "leave_one_out_withhold", "shapley", "shapley_withhold"):
        plain = OmegaConf.to_container(OmegaConf.load(conf_dir() / "attribution" / f"{name}.yaml"))
        made[name] = _targeted(plain, f"attribution.{name}")
        assert made[name].name == name
    assert made["leave_one_out"] == LeaveOneOut()
    assert made["shapley"] == Shapley()


@pytest.mark.slow
def test_steps_are_those_that_fusion_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of stragglers that did only a part of their passes, too."""
    counted: list[list[int]] = []

    def returned(**parts: Any) -> ReturnedModels:
        counted.append(parts["steps"])
        return ReturnedModels(**parts)

    monkeypatch.setattr(federation_round, "ReturnedModels", returned)
    federation = replace(
        make_config().federation, clients=4, local_epochs=4, stragglers=0.5, straggler_work="partial", rounds=2
    )
    config, data = make_config(federation=federation), make_data(clients=4, examples=30, test=20)
    examples = {client.id: len(client.labels) for client in data.clients}
    with federated_rounds(config, data, make_model(), tmp_path, {1, 2}, CPU, lambda event: None) as rounds:
        steps = [steps_made(examples, stored, config.federation, config.seed) for stored in rounds]
    assert steps == counted
    assert len(set(steps[1])) > 1


@pytest.mark.slow
def test_a_traced_round_has_its_effects_measured(tmp_path: Path) -> None:
    """Of a network that trained: withheld and refused clients rank alike, and `faithful` ranks them like both."""
    federation = replace(make_config().federation, clients=5, rounds=2)
    methods = (LeaveOneOut(), LeaveOneOut("withhold"), Shapley("withhold"))
    own = provenance_preset("faithful")
    config = make_config(federation=federation, attribution=methods, provenance=own)
    data, model = make_data(clients=5, examples=60, test=100), make_model()
    counts = {client.id: client.label_counts for client in data.clients}
    with federated_rounds(config, data, model, tmp_path, {2}, CPU, lambda event: None) as rounds:
        (traced,) = [traced_round(config, [own], data, model, stored) for stored in rounds]
    said = traced.contributions.groupby("method")["without"].count()
    assert set(said[said > 0].index) == {"leave_one_out", "leave_one_out_withhold"}
    scores = localization(traced.contributions, counts, 1, data.faults).set_index("method")
    for name in ("spearman_withhold", "spearman_refuse"):
        assert scores.loc["faithful", name] > 0.5
        assert scores.loc["shapley_withhold", name] > 0.5
    assert scores.loc["leave_one_out", "spearman_refuse"] == pytest.approx(1.0)
    assert 0.5 < scores.loc["leave_one_out", "spearman_withhold"] < 1
    assert _faithfulness(scores.loc["faithful"].to_dict()) == scores.loc["faithful", "spearman_refuse"]


def frame_of(method: str, values: list[list[float]], candidates: list[bool] | None = None, round: int = 2) -> Any:
    n, k = np.shape(values)
    used = np.ones(k, bool) if candidates is None else np.array(candidates)
    labels = np.zeros(n, int)
    return tidy(method, "round", "", round, np.arange(n), labels, labels, range(k), used, np.array(values), {})


def test_faithfulness_by_hand() -> None:
    """Rank correlations of three clients, two inputs: 1 and -0.5 against refuse, NaN and -1 against withhold."""
    ours = frame_of("provfl", [[3.0, 1.0, 0.0], [3.0, 1.0, 2.0]])
    refused = frame_of("leave_one_out", [[0.9, 0.3, -0.1], [0.1, 0.2, 0.3]])
    withheld = frame_of("leave_one_out_withhold", [[0.5, 0.5, 0.5], [0.1, 0.3, 0.2]])
    other = frame_of("provfl", [[3.0, 1.0, 0.0], [3.0, 1.0, 2.0]], round=1)
    counts = {client: np.array([20]) for client in range(3)}

    def scored(*frames: Any) -> Any:
        return localization(pd.concat(frames, ignore_index=True), counts, 10, Faults((), ())).set_index(
            ["method", "round"]
        )

    scores = scored(ours, refused, withheld, other)
    assert scores.loc[("provfl", 2), "spearman_refuse"] == pytest.approx((1 - 0.5) / 2)
    assert scores.loc[("provfl", 2), "spearman_withhold"] == pytest.approx(-1.0)
    assert scores.loc[("leave_one_out", 2), "spearman_refuse"] == pytest.approx(1.0)
    assert math.isnan(scores.loc[("provfl", 1), "spearman_refuse"])  # not measured in that round
    assert math.isnan(scored(ours).loc[("provfl", 2), "spearman_refuse"])
    narrow = frame_of("leave_one_out", [[0.9, 0.3, -0.1], [0.1, 0.2, 0.3]], [True, False, True])
    assert math.isnan(scored(ours, narrow).loc[("provfl", 2), "spearman_refuse"])  # other candidates
    assert _faithfulness(scores.loc[("provfl", 2)].to_dict()) == pytest.approx(0.25)
    assert _faithfulness(scored(ours, withheld).loc[("provfl", 2)].to_dict()) == pytest.approx(-1.0)
    assert _faithfulness(scored(ours).loc[("provfl", 2)].to_dict()) is None
