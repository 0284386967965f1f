"""Accumulators over all rounds: telescoping sums by hand, the exact identity for every fusion, and their file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from provfl_cli.config.tree import options
from provfl_cli.config.validate import provenance_preset
from provfl_cli.federation.events import RoundsReused
from provfl_cli.federation.train import federated_rounds
from provfl_cli.fusion import updates as blocks
from provfl_cli.fusion.fedadam import FedAdam
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.fedavgm import FedAvgM
from provfl_cli.fusion.fuse import Fusion
from provfl_cli.fusion.lineage import next_lineage
from provfl_cli.fusion.lineage_rows import Lineage, LineageRows
from provfl_cli.store import rounds as store
from provfl_cli.store.tensorfile import write_tensors

from .federations import make_config, make_data, make_model
from .lineages import Work, chain, composed_fusion, perturbed, play, shapes

CPU = torch.device("cpu")
DOUBLE = torch.float64
START = {"w": torch.tensor([[1.0, -2.0, 0.5]], dtype=DOUBLE), "b": torch.tensor([0.25], dtype=DOUBLE)}


def test_nothing_is_accumulated_twice_by_hand(tmp_path: Path) -> None:
    """Two clients, FedAvg, 3 and 1 examples; one parameter, one number."""
    start = {"w": torch.tensor([1.0], dtype=DOUBLE)}
    first = {0: (3, {"w": torch.tensor([2.0], dtype=DOUBLE)}), 4: (1, {"w": torch.tensor([5.0], dtype=DOUBLE)})}
    second = {4: (2, {"w": torch.tensor([1.75], dtype=DOUBLE)})}
    lineage = play(tmp_path, FedAvg(), start, [Work(first), Work(second)])[-1].lineage()
    assert lineage is not None
    assert lineage.rows == LineageRows((0, 4), (), (0, 4), (1, 2), 1.0, (1, 2))
    # Round 1: 0.75 * (2 - 1) and 0.25 * (5 - 1), so the model is 2.75; round 2: 1 * (1.75 - 2.75).
    assert lineage.tensors["weighted/w"].tolist() == [[0.75], [0.0]]
    assert lineage.tensors["plain/w"].tolist() == [[1.0], [3.0]]
    assert lineage.initial["w"].tolist() == [1.0]


@pytest.mark.parametrize(
    "fusion", [FedAvg(), FedAvgM(momentum=0.8, learning_rate=0.5), FedAdam(eta=0.1, beta1=0.7, beta2=0.9, tau=0.01)]
)
def test_a_client_of_round_1_only_on_a_linear_model(tmp_path: Path, fusion: FedAvg) -> None:
    """Client 7 trains in round 1; client 2 starts there too and returns in round 2; then 1 and 3 go on alone.

    Clients really train: full-batch gradient descent on `|X w + b - y|^2`, each on its own examples.
    """
    random = torch.Generator().manual_seed(3)
    data = {
        k: (torch.randn(n, 3, generator=random, dtype=DOUBLE), torch.randn(n, generator=random, dtype=DOUBLE))
        for k, n in {1: 4, 2: 6, 3: 5, 7: 9}.items()
    }

    def descended(client: int, start: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs, wanted = data[client]
        weights = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
        for _ in range(3):
            loss = ((inputs @ weights["w"][0] + weights["b"] - wanted) ** 2).mean()
            for weight, gradient in zip(weights.values(), torch.autograd.grad(loss, weights.values()), strict=True):
                weight.data -= 0.05 * gradient
        return {name: weight.detach() for name, weight in weights.items()}

    def work(number: int, model: dict[str, Tensor], before: list[dict[str, Tensor]]) -> Work:
        taking_part = {1: (1, 7), 2: (1, 2), 3: (1, 3), 4: (3,)}[number]
        bases = {2: before[0]} if number == 2 else {}
        return Work({k: (len(data[k][1]), descended(k, bases.get(k, model))) for k in taking_part}, bases)

    rounds = chain(tmp_path, fusion, START, work, 4)
    decay, gain = fusion.decay, fusion.gain
    for name, start in START.items():
        # By hand: a second moment and the step size of each round, from the models that the server saw.
        update = {k: descended(k, START)[name] - start for k in (7, 2)}
        shares = {7: 9 / (9 + 4), 2: 6 / (6 + 4)}
        scales, second = [], torch.full_like(start, 0.01**2)
        models = [START, *(dict(stored.weights()) for stored in rounds)]
        for number, stored in enumerate(rounds):
            delta = sum(
                q * (sent - models[number][name])
                for q, sent in zip(stored.example_weights, stored.client_stack()[name], strict=True)
            )
            second = 0.9 * second + 0.1 * delta**2
            adaptive = 0.1 / (second.sqrt() + 0.01)
            scales.append({FedAvg: 1.0, FedAvgM: 0.5, FedAdam: adaptive}[type(fusion)])
        for last, stored in enumerate(rounds, 1):
            lineage = stored.lineage()
            assert lineage is not None
            for client, entered in ((7, 1), (2, 2)):
                if last < entered:
                    continue
                sent = sum(
                    scales[t - 1] * decay ** (t - entered) * gain * shares[client] * update[client]
                    for t in range(entered, last + 1 if decay else entered + 1)
                )
                ours = lineage.tensors[f"weighted/{name}"][lineage.rows.positions[client]]
                plain = lineage.tensors[f"plain/{name}"][lineage.rows.positions[client]]
                assert torch.allclose(ours, torch.as_tensor(sent), rtol=1e-10, atol=1e-13)
                assert torch.allclose(plain * shares[client], ours, rtol=1e-10, atol=1e-13)
                assert ours.abs().max() > 1e-3, "still there, rounds later"
            if last >= 2:  # the late base of client 2, in the row of its own
                stale = sum(
                    scales[t - 1] * decay ** (t - 2) * gain * shares[2] * (start - models[1][name])
                    for t in range(2, last + 1 if decay else 3)
                )
                assert torch.allclose(lineage.tensors[f"weighted/{name}"][-1], torch.as_tensor(stale), rtol=1e-9)
    rows = rounds[-1].lineage().rows  # type: ignore[union-attr]
    assert (rows.clients, rows.last, rows.kinds) == ((1, 2, 3, 7), (3, 2, 4, 1), ("stale",))


def random_work(number: int, model: dict[str, Tensor], before: list[dict[str, Tensor]]) -> Work:
    """Seven clients of ten in each round; from round 2 on one started from the model of the round before."""
    taking_part = [(3 * number + k) % 10 for k in range(7)]
    bases = {taking_part[2]: before[-1]} if before else {}
    sent = {k: (10 + 3 * k, perturbed(bases.get(k, model), 0.1, 100 * number + k)) for k in sorted(taking_part)}
    factors = {k: 0.3 + 0.1 * (k % 7) for k in sent}
    return Work(sent, bases, factors, noise=0.02)


def off_by(stored: store.Round) -> float:
    """Largest difference between the model and the sum of what it is made of, relative to what went into the sum."""
    lineage = stored.lineage()
    assert lineage is not None
    worst = 0.0
    for name in set(lineage.initial) - stored.buffers:
        initial = lineage.initial[name]
        rows = lineage.tensors[f"weighted/{name}"].double()
        difference = (stored.weights()[name].double() - initial.double() - rows.sum(0)).abs()
        scale = initial.double().abs() + rows.abs().sum(0)
        worst = max(worst, float((difference / scale).max()))
    return worst


QUICK = ("fedavg", "fedadam", "trimmed_mean")
EVERY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in options("fusion")]


@pytest.mark.parametrize("decay", [1.0, 0.8])
@pytest.mark.parametrize("name", EVERY)
def test_the_rows_add_up_to_the_model_under_every_fusion(tmp_path: Path, name: str, decay: float) -> None:
    """With late clients, clip factors and noise; `W_T = W_0 + sum of all rows`."""
    fusion = composed_fusion(name)
    exact = chain(tmp_path / "double", fusion, shapes(torch.float64), random_work, 4, decay)
    assert max(map(off_by, exact)) < 1e-13
    single = chain(tmp_path / "single", fusion, shapes(torch.float32), random_work, 4, decay)
    assert max(map(off_by, single)) < 1e-6
    rows = exact[-1].lineage().rows  # type: ignore[union-attr]
    assert set(rows.kinds) == {"noise", "stale", *(["forgotten"] if decay < 1 else [])}
    assert rows.clients == tuple(range(10))
    lineage = exact[-1].lineage()
    assert lineage is not None
    for kind in rows.kinds:  # a sum over rows that do not matter to it would prove nothing
        if (name, kind) != ("krum", "stale"):  # it chose nobody who was late
            assert lineage.tensors["weighted/w"][rows.positions[kind]].abs().max() > 1e-6


def test_decay_moves_what_it_takes_into_the_row_forgotten(tmp_path: Path) -> None:
    first, whole, faded = (
        chain(tmp_path / f"{rounds} {decay}", FedAvg(), shapes(DOUBLE), random_work, rounds, decay)[-1].lineage()
        for rounds, decay in ((1, 1.0), (3, 1.0), (3, 0.5))
    )
    assert first is not None
    assert whole is not None
    assert faded is not None
    assert whole.rows.clients == tuple(range(10))
    sent = {k: first.tensors["weighted/w"][position] for k, position in first.rows.positions.items()}
    assert 6 in sent
    second = whole.tensors["weighted/w"][6] - sent[6]
    assert whole.rows.last[6] == 2
    assert torch.allclose(faded.tensors["weighted/w"][6], sent[6] / 4 + second / 2)
    lost = whole.tensors["weighted/w"].sum(0) - faded.tensors["weighted/w"][:-1].sum(0)
    assert faded.rows.kinds[-1] == "forgotten"
    assert torch.allclose(faded.tensors["weighted/w"][-1], lost)


def test_a_client_that_fusion_never_used_is_no_candidate(tmp_path: Path) -> None:
    stored = chain(tmp_path, composed_fusion("krum"), shapes(DOUBLE), random_work, 2)[-1]
    rows = stored.lineage().rows  # type: ignore[union-attr]
    assert 1 <= len(rows.used) <= 2
    for client in set(rows.clients) - set(rows.used):
        assert not stored.lineage().tensors["weighted/w"][rows.positions[client]].any()  # type: ignore[union-attr]


@pytest.mark.parametrize("fusion", [FedAvg(), FedAvgM()])
def test_the_file_is_the_same_however_small_the_blocks(
    tmp_path: Path, fusion: Fusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def content(folder: Path) -> list[bytes]:
        rounds = chain(folder, fusion, shapes(torch.float32), random_work, 3, 0.9)
        return [(stored.folder / store.LINEAGE).read_bytes() for stored in rounds]

    whole = content(tmp_path / "whole")
    monkeypatch.setattr(blocks, "BLOCK_NUMBERS", 40)
    assert content(tmp_path / "blocks") == whole


def test_momentum_is_stored_only_where_there_is_some(tmp_path: Path) -> None:
    def groups(fusion: Fusion, folder: str) -> set[str]:
        lineage = chain(tmp_path / folder, fusion, shapes(DOUBLE), random_work, 1)[-1].lineage()
        return {name.split("/")[0] for name in lineage.tensors}  # type: ignore[union-attr]

    assert groups(FedAvg(), "plain") == {"weighted", "plain"}
    assert groups(FedAvgM(), "momentum") == {"weighted", "plain", "velocity", "plain_velocity"}


def test_the_initial_model_is_one_file_for_all_rounds_and_outlives_the_first(tmp_path: Path) -> None:
    rounds = chain(tmp_path, FedAvg(), shapes(DOUBLE), random_work, 3)
    nodes = {(stored.folder / store.INITIAL).stat().st_ino for stored in rounds}
    assert nodes == {(rounds[0].folder / store.PREVIOUS).stat().st_ino}
    for number in (1, 2):
        store.remove_round(tmp_path, number)
    assert off_by(store.read_round(tmp_path, 3)) < 1e-13


def test_a_round_without_the_lineage_that_is_wanted_is_replaced(tmp_path: Path) -> None:
    without = chain(tmp_path, FedAvg(), shapes(DOUBLE), random_work, 2, None)
    assert without[-1].lineage() is None
    assert store.has_lineage(without[-1], None)
    assert not store.has_lineage(without[-1], 1.0)
    again = chain(tmp_path, FedAvg(), shapes(DOUBLE), random_work, 2, 0.5)
    assert store.stored_rounds(tmp_path) == [1, 2]
    assert [store.has_lineage(again[-1], decay) for decay in (0.5, 1.0, None)] == [True, False, True]
    assert torch.equal(again[-1].weights()["w"], without[-1].weights()["w"])
    assert off_by(store.read_round(tmp_path, 2)) < 1e-13
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["0001", "0002"]


@pytest.mark.parametrize("row", [0, -1])
def test_damage_is_found(tmp_path: Path, row: int) -> None:
    stored = chain(tmp_path, FedAvg(), shapes(DOUBLE), random_work, 2)[-1]
    lineage = stored.lineage()
    assert lineage is not None
    tensors = {name: tensor.clone() for name, tensor in lineage.tensors.items()}
    tensors["weighted/w"][row] = 0
    write_tensors(stored.folder / store.LINEAGE, tensors)
    with pytest.raises(store.RunError, match=r"lineage\.safetensors is damaged"):
        store.read_round(tmp_path, 2).lineage()


def test_accumulators_of_another_decay_are_refused(tmp_path: Path) -> None:
    lineage = chain(tmp_path, FedAvg(), shapes(DOUBLE), random_work, 1)[-1].lineage()
    nothing: Any = None
    for before, number, decay in ((None, 2, 1.0), (lineage, 1, 1.0), (lineage, 2, 0.5)):
        assert before is None or isinstance(before, Lineage)
        with pytest.raises(ValueError, match="accumulators of the round before"):
            next_lineage(FedAvg(), nothing, [], number, before, decay)


def trained(cache: Path, rounds: int, decay: float | None, seen: list[Any] | None = None) -> store.Round:
    """A small federation, its rounds trained where they are not in the cache."""
    scope = {} if decay is None else {"scope": "lineage", "lineage_decay": decay}
    config = make_config(
        rounds=rounds,
        clients_per_round=2,
        fusion=FedAvgM(),
        provenance=replace(provenance_preset("provfl"), **scope),  # type: ignore[arg-type]
    )
    observe = ([] if seen is None else seen).append
    with federated_rounds(config, make_data(), make_model(), cache, {rounds}, CPU, observe) as kept:
        (stored,) = kept
    return stored


@pytest.mark.slow
def test_training_that_goes_on_from_disk_leaves_the_same_bytes(tmp_path: Path) -> None:
    unbroken = trained(tmp_path / "unbroken", 3, 0.9)
    trained(tmp_path / "in parts", 1, 0.9)
    seen: list[Any] = []
    resumed = trained(tmp_path / "in parts", 3, 0.9, seen)
    assert [event.rounds for event in seen if isinstance(event, RoundsReused)] == [1]
    assert set(resumed.checksums) == set(unbroken.checksums) >= {store.LINEAGE, store.INITIAL}
    assert resumed.checksums == unbroken.checksums
    assert resumed.lineage_rows == unbroken.lineage_rows
    assert off_by(resumed) < 1e-6
    assert (resumed.folder / store.LINEAGE).read_bytes() == (unbroken.folder / store.LINEAGE).read_bytes()


@pytest.mark.slow
def test_a_cached_federation_without_lineage_is_trained_again_to_the_same_model(tmp_path: Path) -> None:
    without = trained(tmp_path, 2, None)
    weights = {name: tensor.clone() for name, tensor in without.weights().items()}
    for decay in (1.0, 0.5):
        with_lineage = trained(tmp_path, 2, decay)
        assert store.has_lineage(with_lineage, decay)
        assert off_by(with_lineage) < 1e-6
        assert all(torch.equal(weights[name], tensor) for name, tensor in with_lineage.weights().items())
        assert len(list((tmp_path / "federations").glob("[!.]*"))) == 1, "lineage is no part of the cache's key"
    seen: list[Any] = []
    trained(tmp_path, 2, None, seen)
    assert [event.rounds for event in seen if isinstance(event, RoundsReused)] == [2]
