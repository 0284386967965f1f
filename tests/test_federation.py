"""Training: the same numbers however it is spread over processes, and whenever it is interrupted."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from provfl_cli.errors import InputError, RunError
from provfl_cli.federation import engine, events
from provfl_cli.federation.client import batch_bounds, batches, text_lengths, train_client
from provfl_cli.federation.optimizers import clip, make_step, rate
from provfl_cli.federation.participation import choose_clients
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.fedprox import FedProx
from provfl_cli.run.checks import check_precision
from provfl_cli.seeds import derived_seed, seed_torch
from provfl_cli.store.rounds import Round

from .federations import SmallNet, content, make_config, make_data, make_model, make_texts, train
from .processes import start_training


def of_type(seen: list[events.Event], kind: type) -> list[Any]:
    return [event for event in seen if isinstance(event, kind)]


@pytest.mark.slow
def test_same_bytes_for_any_number_of_workers_and_without_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for workers in (1, 2, 3):
        rounds, seen = train(tmp_path / str(workers), make_config(workers=workers, keep="all"))
        assert of_type(seen, events.TrainingEnded)[0].seconds > 0
        results.append((content(tmp_path / str(workers)), rounds[0].metrics.loss, rounds[0].metrics.accuracy))
    monkeypatch.setattr(engine, "can_fork", lambda: False)
    rounds, _ = train(tmp_path / "here", make_config(keep="all"))
    results.append((content(tmp_path / "here"), rounds[0].metrics.loss, rounds[0].metrics.accuracy))
    assert len(results[0][0]) == 3 * 5
    assert all(result == results[0] for result in results)


def test_it_learns_and_says_what_happens(tmp_path: Path) -> None:
    rounds, seen = train(tmp_path, make_config(rounds=4), {1, 3, 4})
    assert [stored.number for stored in rounds] == [1, 3, 4]
    assert rounds[-1].metrics.accuracy > 0.8 > 0.1
    assert [metrics.round for metrics in rounds[-1].history] == [1, 2, 3, 4]
    assert [event.number for event in of_type(seen, events.RoundFinished)] == [1, 2, 3, 4]
    assert len(of_type(seen, events.ClientFinished)) == 4 * 4
    assert rounds[0].clients == (0, 2, 4, 6)
    assert rounds[0].examples == (50, 57, 64, 71)
    assert "norm.num_batches_tracked" in rounds[0].buffers
    assert "norm.weight" not in rounds[0].buffers


def test_a_stored_round_is_what_its_clients_and_its_fusion_say(tmp_path: Path) -> None:
    """Client by client against training here, the global model against the mean, metrics against an evaluation."""
    data, config = make_data(), make_config(rounds=2)
    (first, second), _ = train(tmp_path, config, {1, 2}, data)
    assert all(torch.equal(first.previous()[name], value) for name, value in make_model().state_dict().items())
    assert all(torch.equal(second.previous()[name], value) for name, value in first.weights().items())
    with engine.one_thread(), torch.random.fork_rng():
        for slot, client in enumerate(data.clients):
            model = make_model()
            model.load_state_dict(dict(first.weights()))
            train_client(model, client, config.federation, FedAvg(), config.seed, 2)
            for name, value in model.state_dict().items():
                assert torch.equal(second.client_stack()[name][slot], value), name
    shares = torch.tensor(second.examples, dtype=torch.float64) / sum(second.examples)
    for name, value in second.weights().items():
        mean = torch.einsum("k,k...->...", shares, second.client_stack()[name].double())
        assert torch.allclose(value.double(), mean.round() if not value.is_floating_point() else mean, atol=1e-6)
    model.load_state_dict(dict(second.weights()))
    model.eval()
    with torch.no_grad():
        logits = model(data.test.inputs)
    assert second.metrics.accuracy == pytest.approx(float((logits.argmax(1) == data.test.labels).float().mean()))
    assert second.metrics.loss == pytest.approx(float(nn.functional.cross_entropy(logits, data.test.labels)), rel=1e-4)


def test_sgd_step_by_step_as_by_hand() -> None:
    """One client, against the update rule written out: shuffled batches, momentum, weight decay, proximal term."""
    config = make_config(weight_decay=0.01, learning_rate=0.1)
    client = make_data().clients[0]
    torch.manual_seed(3)
    trained = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    weight, bias = (value.detach().clone().requires_grad_() for value in trained.parameters())
    start = [weight.detach().clone(), bias.detach().clone()]
    train_client(trained, client, config.federation, FedProx(mu=0.5), 0, 1)
    order = torch.Generator().manual_seed(derived_seed(0, "order", 1, client.fingerprint))
    speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for _ in range(2):
        shuffled = torch.randperm(50, generator=order)
        for first, last in ((0, 16), (16, 32), (32, 48), (48, 50)):
            chosen = shuffled[first:last]
            logits = client.inputs[chosen].flatten(1) @ weight.T + bias
            loss = nn.functional.cross_entropy(logits, client.labels[chosen])
            gradients = torch.autograd.grad(loss, (weight, bias))
            with torch.no_grad():
                for value, gradient, v, origin in zip((weight, bias), gradients, speed, start, strict=True):
                    v.mul_(0.9).add_(gradient + 0.5 * (value - origin) + 0.01 * value)
                    value -= 0.1 * v
    assert torch.allclose(trained[1].weight, weight, atol=1e-5)
    assert torch.allclose(trained[1].bias, bias, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_steps_are_those_of_torchs_optimizers(optimizer: str) -> None:
    settings = make_config(optimizer=optimizer, learning_rate=0.1, weight_decay=0.01).federation
    random = torch.Generator().manual_seed(0)
    ours = [torch.randn(3, 4, generator=random), torch.randn(5, generator=random)]
    theirs = [nn.Parameter(value.clone()) for value in ours]
    reference: torch.optim.Optimizer = {
        "sgd": lambda: torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=0.01),
        "adam": lambda: torch.optim.Adam(theirs, lr=0.1, weight_decay=0.01),
        "adamw": lambda: torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.01),
    }[optimizer]()
    step = make_step(ours, settings, partial(rate, settings, 1))
    for turn in range(6):
        reached = [0, 1] if turn % 3 else [1]  # the loss does not always reach the first
        for position, weight in enumerate(theirs):
            gradient = torch.randn(weight.shape, generator=random)
            weight.grad = gradient if position in reached else None
        step(reached, [theirs[position].grad.clone() for position in reached])  # type: ignore[union-attr]
        reference.step()
    for weight, other in zip(ours, theirs, strict=True):
        assert torch.allclose(weight, other, atol=1e-6)


def linear_model() -> nn.Module:
    """Neither dropout nor batch normalisation: a batch is the sum of its examples."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))


def test_the_defaults_of_pictures_give_the_bits_of_a_plain_loop() -> None:
    config, client = make_config(), make_data().clients[0]
    ours, theirs = make_model(), make_model()
    loss = train_client(ours, client, config.federation, config.fusion, 4, 2)
    torch.manual_seed(derived_seed(4, "client", 2, client.fingerprint))
    order = torch.Generator().manual_seed(derived_seed(4, "order", 2, client.fingerprint))
    weights = list(theirs.parameters())
    speed = [torch.zeros_like(weight) for weight in weights]
    theirs.train()
    for _ in range(config.federation.local_epochs):
        shuffled, total = torch.randperm(50, generator=order), torch.zeros(())
        for first, last in ((0, 16), (16, 32), (32, 48), (48, 50)):
            chosen = shuffled[first:last]
            cost = nn.functional.cross_entropy(theirs(client.inputs[chosen]), client.labels[chosen])
            total += cost.detach() * (last - first)
            gradients = list(torch.autograd.grad(cost, weights))
            with torch.no_grad():
                torch._fused_sgd_(
                    weights,
                    gradients,
                    speed,
                    weight_decay=0.0,
                    momentum=0.9,
                    lr=0.05,
                    dampening=0.0,
                    nesterov=False,
                    maximize=False,
                    is_first_step=False,
                )
    assert loss == total.item() / 50
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_the_learning_rate_rises_over_the_first_steps() -> None:
    settings = make_config(learning_rate=0.2, warmup_steps=4, momentum=0.0).federation
    assert [rate(settings, 1, turn) for turn in (1, 2, 3, 4, 5, 99)] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.2, 0.2])
    assert rate(make_config(learning_rate=0.2).federation, 1, 1) == 0.2
    weight = torch.zeros(1)
    step = make_step([weight], settings, partial(rate, settings, 1))
    for place in (-0.05, -0.15, -0.3, -0.5, -0.7):
        step([0], [torch.ones(1)])
        assert float(weight) == pytest.approx(place)


@pytest.mark.parametrize("most", [0.5, 1e3])
def test_clipping_is_torchs(most: float) -> None:
    random = torch.Generator().manual_seed(0)
    ours = [torch.randn(3, 4, generator=random), torch.randn(5, generator=random)]
    theirs = [nn.Parameter(torch.zeros_like(gradient)) for gradient in ours]
    for weight, gradient in zip(theirs, ours, strict=True):
        weight.grad = gradient.clone()
    before = nn.utils.clip_grad_norm_(theirs, most)
    clip(ours, most)
    for weight, gradient in zip(theirs, ours, strict=True):
        assert weight.grad is not None
        assert torch.allclose(weight.grad, gradient, rtol=1e-6, atol=0)
    after = torch.cat([gradient.flatten() for gradient in ours]).norm()
    assert float(after) == pytest.approx(min(most, float(before)), rel=1e-5)


def test_the_fusions_correction_is_not_clipped() -> None:
    """A step of length 1 from the loss at most, while the pull back keeps its strength."""
    client = make_data().clients[0]
    settings = make_config(clip_norm=1e-9, momentum=0.0, learning_rate=0.1, local_epochs=1, batch_size=50).federation

    @dataclass(frozen=True)
    class Pull(FedProx):
        def correct_gradients(self, gradients: Any, weights: Any, start: Any) -> None:
            for gradient in gradients:
                gradient.add_(1.0)

    model, start = linear_model(), linear_model()
    train_client(model, client, settings, Pull(mu=1.0), 0, 1)
    for value, before in zip(model.parameters(), start.parameters(), strict=True):
        assert torch.allclose(value, before - 0.1, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulated_batches_are_one_large_batch(optimizer: str) -> None:
    """50 examples: batches of 8 (the last of 2) by threes, the last group incomplete, against batches of 24."""
    client = make_data().clients[0]
    results = []
    for size, together in ((8, 3), (24, 1)):
        settings = make_config(
            optimizer=optimizer, batch_size=size, accumulate=together, clip_norm=0.5, warmup_steps=3
        ).federation
        model = linear_model()
        loss = train_client(model, client, settings, FedAvg(), 0, 1)
        results.append((loss, [value.detach() for value in model.parameters()]))
    (loss, ours), (whole_loss, theirs) = results
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    assert all(torch.allclose(value, again, atol=2e-5) for value, again in zip(ours, theirs, strict=True))
    assert not all(torch.allclose(v, b, atol=1e-2) for v, b in zip(ours, linear_model().parameters(), strict=True))


@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=200), size=st.integers(1, 8), seed=st.integers(0, 99))
def test_batches_of_texts_hold_every_example_once_and_similar_lengths(lengths: list[int], size: int, seed: int) -> None:
    tokens = torch.zeros(len(lengths), 31, dtype=torch.long)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = 7
    measured = text_lengths(tokens, 0)
    assert measured.tolist() == lengths
    bucketed, plain, again = (
        batches(len(lengths), size, torch.Generator().manual_seed(seed), lengths_of_texts)
        for lengths_of_texts in (measured, None, measured)
    )
    assert all(torch.equal(batch, other) for batch, other in zip(bucketed, again, strict=True))
    for dealt in (bucketed, plain):
        assert sorted(torch.cat(dealt).tolist()) == list(range(len(lengths)))
    assert sorted(map(len, bucketed)) == sorted(map(len, plain))

    def columns(dealt: list[torch.Tensor]) -> int:
        return sum(int(measured[batch].max()) * len(batch) for batch in dealt)

    if len(lengths) <= 16 * size:  # one window: no batches of these sizes need less than the sorted ones
        ends = torch.tensor(lengths).sort().values
        assert columns(bucketed) == sum(
            int(ends[last - 1]) * (last - first) for first, last in batch_bounds(len(lengths), size)
        )


@pytest.mark.slow
def test_a_padding_inside_a_text_counts_and_texts_train_in_their_own_order(tmp_path: Path) -> None:
    assert text_lengths(torch.tensor([[5, 9, 5, 9], [9, 9, 9, 9], [9, 9, 5, 5]]), 9).tolist() == [3, 0, 4]
    data = make_texts()
    (first,), _ = train(
        tmp_path / "a", make_config(rounds=1, optimizer="adamw", workers=1), data=data, model=BagOfTokens()
    )
    (second,), _ = train(
        tmp_path / "b", make_config(rounds=1, optimizer="adamw", workers=2), data=data, model=BagOfTokens()
    )
    assert content(tmp_path / "a") == content(tmp_path / "b")
    blind = replace(data, form=replace(data.form, padding=99))  # every text is as long as all others then
    (third,), _ = train(
        tmp_path / "c", make_config(rounds=1, optimizer="adamw", workers=1), data=blind, model=BagOfTokens()
    )
    name = "tokens.weight"
    assert torch.equal(first.weights()[name], second.weights()[name])
    assert not torch.equal(first.weights()[name], third.weights()[name])


class BagOfTokens(nn.Module):
    """Sums a vector for each token; 0 pads."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(20, 10)
        with torch.no_grad():
            self.tokens.weight.fill_(0.1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return (self.tokens(tokens) * (tokens != 0)[..., None]).sum(1)


def test_mixed_precision_needs_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = make_config(precision="bfloat16", cache=str(tmp_path))
    with pytest.raises(InputError, match=r"precision=bfloat16: mixed precision is for a GPU.*precision=float32"):
        check_precision(config.federation.precision, config.device)
    monkeypatch.setattr("provfl_cli.run.checks.choose_device", lambda name: torch.device("cuda"))
    check_precision(config.federation.precision, config.device)


def test_mixed_precision_keeps_weights_and_steps_in_full() -> None:
    """Autocast works on the CPU as well, where only the outputs differ."""
    client = make_data().clients[0]
    weights = []
    for precision in ("float32", "bfloat16"):
        model = linear_model()
        train_client(model, client, make_config(precision=precision).federation, FedAvg(), 0, 1)
        weights.append(torch.cat([value.detach().flatten() for value in model.parameters()]))
    assert weights[1].dtype == torch.float32
    assert torch.allclose(*weights, atol=2e-2)
    assert not torch.equal(*weights)


@pytest.mark.slow
def test_adam_and_fedprox_train(tmp_path: Path) -> None:
    config = make_config(optimizer="adam", learning_rate=0.005, fusion=FedProx(mu=10.0), rounds=2)
    (held,), _ = train(tmp_path, config)
    (free,), _ = train(tmp_path, make_config(optimizer="adam", learning_rate=0.005, rounds=2))

    def moved(stored: Round) -> float:
        return float((stored.client_stack()["hidden.weight"] - stored.previous()["hidden.weight"]).norm())

    assert moved(held) < 0.9 * moved(free)


@pytest.mark.slow
def test_a_cached_run_trains_nothing_and_a_longer_one_continues(tmp_path: Path) -> None:
    train(tmp_path, make_config(rounds=2))
    before = content(tmp_path)
    rounds, seen = train(tmp_path, make_config(rounds=2, workers=3, keep="last"))
    assert not of_type(seen, events.RoundStarted)
    ended = of_type(seen, events.TrainingEnded)[0]
    assert (ended.rounds, ended.seconds) == (0, 0)
    assert ended.cached_seconds > 0
    assert of_type(seen, events.RoundsReused)[0].history == rounds[0].history
    assert content(tmp_path) == before
    _, seen = train(tmp_path, make_config(rounds=4))
    assert [event.number for event in of_type(seen, events.RoundStarted)] == [3, 4]
    train(tmp_path / "straight", make_config(rounds=4))
    assert {name: value for name, value in content(tmp_path).items() if "0004" in name} == {
        name: value for name, value in content(tmp_path / "straight").items() if "0004" in name
    }


@pytest.mark.slow
def test_what_determines_training_has_an_entry_of_its_own(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"learning_rate": 0.04},
        {"fusion": FedProx(mu=0.01)},
        {"fusion": FedProx(mu=0.02)},
        {"clients_per_round": 3},
    ]
    for change in changes:
        train(tmp_path, make_config(rounds=1, **change))
    train(tmp_path, make_config(rounds=1), data=make_data(seed=1))
    train(tmp_path, make_config(rounds=1), data=make_data(test=200))
    train(tmp_path, make_config(rounds=1), model=make_model(1))
    train(tmp_path, make_config(rounds=1, threshold=0.5, tracefl_beside=False, keep="all", workers=1))  # not these
    assert len([folder for folder in (tmp_path / "federations").iterdir() if folder.is_dir()]) == len(changes) + 3


@pytest.mark.slow
def test_a_wanted_round_that_was_not_kept_is_trained_again_and_is_the_same(tmp_path: Path) -> None:
    train(tmp_path / "all", make_config(rounds=4, keep="all"))
    train(tmp_path / "last", make_config(rounds=4))
    rounds, seen = train(tmp_path / "last", make_config(rounds=4), {2})
    assert [stored.number for stored in rounds] == [2]
    assert of_type(seen, events.RoundMissing) == [events.RoundMissing(2, 0)]
    assert [event.number for event in of_type(seen, events.RoundStarted)] == [1, 2]
    everything = content(tmp_path / "all")
    again = content(tmp_path / "last")
    assert {name.split("/")[1] for name in again} == {"0002", "0004"}
    assert all(everything[name] == value for name, value in again.items())
    _, seen = train(tmp_path / "last", make_config(rounds=4), {3})
    assert of_type(seen, events.RoundMissing) == [events.RoundMissing(3, 2)]


@pytest.mark.slow
@pytest.mark.parametrize(("keep", "left"), [("last", {"0005"}), (2, {"0004", "0005"}), (9, set("12345"))])
def test_which_rounds_stay(tmp_path: Path, keep: object, left: set[str]) -> None:
    train(tmp_path, make_config(rounds=5, keep=keep, local_epochs=1))
    assert {name.split("/")[1] for name in content(tmp_path)} == {number.zfill(4) for number in left}


@pytest.mark.slow
def test_what_a_process_left_that_was_killed_while_tidying_up_goes(tmp_path: Path) -> None:
    (last,), _ = train(tmp_path, make_config(rounds=2))
    truth = content(tmp_path)
    shutil.copytree(last.folder, last.folder.with_name("0001"))  # committed round 2, had no time to delete round 1
    shutil.copytree(last.folder, last.folder.with_name(".0001.removed"))
    _, seen = train(tmp_path, make_config(rounds=2))
    assert not of_type(seen, events.RoundStarted)
    assert content(tmp_path) == truth


def test_a_diverging_client_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"client \d diverged in round 1.*federation\.learning_rate=100000$"):
        train(tmp_path, make_config(learning_rate=1e6))
    assert not content(tmp_path) or not any("/0001/" in name for name in content(tmp_path))


class Falling(SmallNet):
    """Ends its process, or raises, when a certain client's data come by."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.parent = os.getpid()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if os.getpid() != self.parent and self.how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "raise":
            raise ValueError("no such luck")
        return super().forward(inputs)


@pytest.mark.slow
def test_a_dying_worker_and_a_failing_client_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"worker process died in round 1 \(SIGKILL\)"):
        train(tmp_path, make_config(), model=Falling("die"))
    with pytest.raises(RunError, match=r"client \d failed in round 1: ValueError: no such luck"):
        train(tmp_path, make_config(), model=Falling("raise"))


def test_too_many_clients_a_round_for_those_left(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only 4 clients are left"):
        train(tmp_path, make_config(clients_per_round=5))


def test_a_full_disk_is_said_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore
    with pytest.raises(RunError, match=r"MB free.*store\.cache=DIR"):
        train(tmp_path, make_config())


@pytest.mark.slow
def test_a_damaged_round_is_not_used(tmp_path: Path) -> None:
    (last,), _ = train(tmp_path, make_config(rounds=1))
    path = last.folder / "global.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match=r"global\.safetensors is damaged"):
        train(tmp_path, make_config(rounds=2))


@given(examples=st.integers(1, 300), size=st.integers(1, 64))
def test_batches_cover_all_examples_and_none_holds_a_single_one(examples: int, size: int) -> None:
    bounds = batch_bounds(examples, size)
    assert [n for first, last in bounds for n in range(first, last)] == list(range(examples))
    if size > 1 and examples > 1:
        assert all(2 <= last - first <= size + 1 for first, last in bounds)


@given(available=st.integers(1, 40), seed=st.integers(0, 99), number=st.integers(1, 99), data=st.data())
def test_choice_of_clients(available: int, seed: int, number: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(1, available))
    chosen = choose_clients(available, wanted, seed, number)
    assert chosen == sorted(set(chosen)) == choose_clients(available, wanted, seed, number)
    assert len(chosen) == wanted
    assert 0 <= chosen[0] <= chosen[-1] < available


def test_choice_changes_with_the_round_and_reaches_everybody() -> None:
    choices = [tuple(choose_clients(10, 3, 0, number)) for number in range(1, 60)]
    assert len(set(choices)) > 20
    assert {client for choice in choices for client in choice} == set(range(10))


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    moment = random.Random(7)
    whole = start_training(tmp_path / "whole", 10, 3)
    assert whole.said.recv() == "RoundStarted"
    began = time.monotonic()
    whole.everything_said()
    length = time.monotonic() - began
    truth = content(tmp_path / "whole")
    killed = 0
    for attempt in range(3):
        cache = tmp_path / str(attempt)
        for _ in range(2):  # broken twice, then left alone
            broken = start_training(cache, 10, 3)
            broken.said.recv()
            time.sleep(moment.uniform(0, 0.8 * length))
            killed += broken.kill()
        resumed = start_training(cache, 10, 3)
        resumed.everything_said()
        assert resumed.process.exitcode == 0
        assert content(cache) == truth
    assert killed >= 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    training = start_training(tmp_path, 1, 10_000)
    assert training.said.recv() == "RoundStarted"
    number = training.process.pid
    children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    assert len(children) == 2
    assert training.kill()
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in children):
        assert time.monotonic() < deadline, "an orphan goes on"
        time.sleep(0.05)


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_two_processes_at_once_train_once(tmp_path: Path) -> None:
    both = [start_training(tmp_path, 6, 6) for _ in range(2)]
    said = [training.everything_said() for training in both]
    assert [training.process.exitcode for training in both] == [0, 0]
    assert sum(lines.count("RoundStarted") for lines in said) == 6
    ends = [line for lines in said for line in lines if isinstance(line, float)]
    assert len(ends) == 2
    assert len(set(ends)) == 1


def test_the_cpu_is_seeded_as_torch_does_it() -> None:
    torch.manual_seed(7)
    expected = torch.rand(5)
    torch.rand(3)
    seed_torch(7, torch.device("cpu"))
    assert torch.equal(torch.rand(5), expected)
