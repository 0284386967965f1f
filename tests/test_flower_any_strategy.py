"""`ProvenanceStrategy` around strategies that filter, scale or post-process, clients that send updates or a part of the
model, half precision, clients named without metrics, and the thread that writes."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from provfl_cli.cli.trace import main as command
from provfl_cli.errors import InputError, RunError
from provfl_cli.provenance import trace
from provfl_cli.store.matching_tensors import check_tensors
from provfl_cli.store.recorded import read_recorded
from provfl_cli.store.rounds import Round, read_round, stored_rounds

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.supercore.task_identity import TaskIdentity

from provfl_cli.flower import ProvenanceStrategy
from provfl_cli.flower import recorder as recorder_module
from provfl_cli.flower.serialized import shape_of, tensor

from .flower_clients import (
    ByTrust,
    Clients,
    Net,
    effects,
    examples,
    initial,
    learnt,
    quiet,
    reply,
    restated,
    run,
    trained,
    trusted,
)


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower asks who it is when it makes messages; and its strategies collect garbage after every client."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    gc.freeze()


def close(stored: Round) -> bool:
    """Whether the stored decomposition gives the stored model."""
    return all(
        np.allclose(value, stored.weights()[name].double(), atol=2e-6) for name, value in restated(stored).items()
    )


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "flower.jsonl").read_text().splitlines()]


# Strategies that filter.


class OnlyLarge(flower.FedAvg):
    """Leaves out clients with few examples, before its ancestor averages."""

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        return super().aggregate_train(
            server_round, [reply for reply in replies if reply.content["metrics"]["num-examples"] >= 20]
        )


class OnlyLargeAdam(OnlyLarge, flower.FedAdam):
    """The same, under another ancestor."""


class LargeMedian(OnlyLarge, flower.FedMedian):
    """The same, under one that takes numbers, not shares."""


class FirstInTime(flower.FedAvg):
    """Drops stragglers in a loop of its own, which nobody can watch; metrics are of all."""

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        replies = list(replies)
        kept = [reply.content for reply in replies if reply.content["metrics"]["partition-id"] != server_round]
        sizes = [content["metrics"]["num-examples"] for content in kept]
        arrays = {
            name: Array(
                np.asarray(
                    sum(c["arrays"][name].numpy() * n for c, n in zip(kept, sizes, strict=True)) / sum(sizes),
                    dtype=np.float32,
                )
            )
            for name in kept[0]["arrays"]
        }
        return ArrayRecord(arrays), self.train_metrics_aggr_fn([reply.content for reply in replies], "num-examples")


@pytest.mark.parametrize(
    ("make", "watched"),
    [
        (lambda: OnlyLarge(**quiet), True),
        (lambda: OnlyLargeAdam(eta=0.01, **quiet), True),
        (lambda: LargeMedian(**quiet), True),
        (lambda: FirstInTime(**quiet), False),
    ],
)
def test_those_who_were_averaged_are_recorded_and_no_others(
    make: Callable[[], Any], watched: bool, tmp_path: Path
) -> None:
    plain = run(make(), clients=6, rounds=3)
    strategy = ProvenanceStrategy(make(), tmp_path, names="partition-id", strict=True)
    result = run(strategy, clients=6, rounds=3)
    assert {name: array.data for name, array in result.arrays.items()} == {
        name: array.data for name, array in plain.arrays.items()
    }
    for number in strategy.recorded:
        stored = read_round(tmp_path / "rounds", number)
        # Examples are 10, 17, 24, 31 in turn: clients 2 and 3 have 20 or more.
        kept = (2, 3) if watched else tuple(k for k in range(6) if k != number)
        assert stored.clients == kept
        assert stored.names == tuple(f"partition-id {k}" for k in kept)
        assert bool(stored.decomposition.candidates(["w"]).all())
        assert close(stored)
        check_tensors(stored)
    left = [f"partition-id {k}" for k in range(6) if k not in kept]
    assert sorted(journal(tmp_path)[-1]["left_out"]) == left
    assert strategy.recorded == [1, 2, 3]


def test_a_client_that_diverged_and_was_left_out_does_not_matter(tmp_path: Path) -> None:
    class OnlyFinite(flower.FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            good = [r for r in replies if all(np.isfinite(a.numpy()).all() for a in r.content["arrays"].values())]
            return super().aggregate_train(server_round, good)

    def answer(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
        content = trained(index, number, arrays)
        if index == 1:
            values = {name: array.numpy() * np.float32("nan") for name, array in content["arrays"].items()}
            content["arrays"] = ArrayRecord({name: Array(np.asarray(value)) for name, value in values.items()})
        return content

    strategy = ProvenanceStrategy(OnlyFinite(**quiet), tmp_path, names="partition-id", strict=True)
    run(strategy, answer, clients=3, rounds=2)
    assert read_round(tmp_path / "rounds", 2).clients == (0, 2)


# Strategies that do more than average.


class Server(flower.FedAvg):
    """Moves the model by a step times the average update, and by what it carries over, and decays it."""

    def __init__(self, step: float = 1.0, momentum: float = 0.0, decay: float = 0.0) -> None:
        super().__init__(**quiet)
        self.step, self.momentum, self.decay = step, momentum, decay
        self.velocity: dict[str, np.ndarray] = {}

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
        self.before = {name: array.numpy() for name, array in arrays.items()}
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        arrays, metrics = super().aggregate_train(server_round, replies)
        for name, before in self.before.items():
            update = np.float32(self.step) * (arrays[name].numpy() - before)
            self.velocity[name] = update + np.float32(self.momentum) * self.velocity.get(name, np.float32(0))
            after = (before + self.velocity[name]) * np.float32(1 - self.decay)
            arrays[name] = Array(np.asarray(after, dtype=np.float32))
        return arrays, metrics


def test_a_server_learning_rate_is_measured_and_credited_to_the_clients(tmp_path: Path) -> None:
    strategy = ProvenanceStrategy(Server(step=0.3), tmp_path, names="partition-id", strict=True)
    run(strategy, clients=4, rounds=3)
    stored = read_round(tmp_path / "rounds", 3)
    assert close(stored)
    assert stored.decomposition.unsent == {}
    scales = {round(float(entry.scalars[0]), 4) for entry in stored.decomposition.multipliers.values()}
    assert scales == {0.3}


def test_clients_weighed_by_numbers_of_the_strategys_own(tmp_path: Path) -> None:
    class ByIndex(flower.FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            contents = [reply.content for reply in replies]
            trust = [1.0 + content["metrics"]["partition-id"] for content in contents]
            names = list(contents[0]["arrays"])
            sums = {n: sum(c["arrays"][n].numpy() * t for c, t in zip(contents, trust, strict=True)) for n in names}
            made = {n: Array(np.asarray(value / sum(trust), dtype=np.float32)) for n, value in sums.items()}
            return ArrayRecord(made), None

    run(ProvenanceStrategy(ByIndex(**quiet), tmp_path, names="partition-id", strict=True), clients=4, rounds=2)
    stored = read_round(tmp_path / "rounds", 2)
    assert close(stored)
    parts = stored.decomposition
    shares = parts.example_weights * parts.multipliers["w"].scalars
    assert np.allclose(shares, np.array([1, 2, 3, 4]) / 10, atol=1e-4)


@pytest.mark.parametrize("make", [lambda: Server(momentum=0.8), lambda: Server(decay=0.1)])
def test_what_no_client_sent_has_a_row_of_its_own_where_that_is_wanted(
    make: Callable[[], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("flwr").propagate = True
    refused = ProvenanceStrategy(make(), tmp_path / "a")
    run(refused, clients=4, rounds=3)
    assert "mismatch='row' records what is not explained" in refused.missed[3]
    strategy = ProvenanceStrategy(make(), tmp_path / "b", names="partition-id", mismatch="row", strict=True)
    run(strategy, clients=4, rounds=3)
    assert strategy.recorded == [1, 2, 3]
    stored = read_round(tmp_path / "b" / "rounds", 3)
    assert set(stored.decomposition.unsent) == {"difference"}
    assert close(stored)
    check_tensors(stored)
    shares = torch.tensor([10, 17, 24, 31], dtype=torch.float64) / 82
    assert torch.allclose(stored.decomposition.example_weights, shares)
    assert journal(tmp_path / "b")[-1]["difference"] > 0.01
    assert "round 3: the clients do not explain" in caplog.text


def test_a_strategy_that_nobody_knows_is_recorded_with_a_row(tmp_path: Path) -> None:
    class Doubled(ByTrust):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            arrays, metrics = super().aggregate_train(server_round, replies)
            return ArrayRecord({name: Array(np.asarray(2 * array.numpy())) for name, array in arrays.items()}), metrics

    strategy = ProvenanceStrategy(Doubled(), tmp_path, mismatch="row", strict=True)
    run(strategy, trusted, clients=3, rounds=2)
    assert close(read_round(tmp_path / "rounds", 7))
    plain = ProvenanceStrategy(ByTrust(), tmp_path / "plain", mismatch="row", strict=True)
    run(plain, trusted, clients=3, rounds=1)  # an average by a metric that nobody named: measured
    stored = read_round(tmp_path / "plain" / "rounds", 6)
    assert stored.decomposition.unsent == {}
    with pytest.raises(InputError, match="mismatch='rows': did you mean row"):
        ProvenanceStrategy(ByTrust(), tmp_path / "c", mismatch="rows")


# What clients send.


class AddsUpdates(flower.FedAvg):
    """Averages the updates that clients send, and adds them to its model."""

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
        self.before = {name: array.numpy() for name, array in arrays.items()}
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        updates, metrics = super().aggregate_train(server_round, replies)
        made = {name: Array(np.asarray(self.before[name] + update.numpy())) for name, update in updates.items()}
        return ArrayRecord(made), metrics


def updated(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
    content = trained(index, number, arrays)
    moved = {name: Array(np.asarray(array.numpy() - arrays[name])) for name, array in content["arrays"].items()}
    content["arrays"] = ArrayRecord(moved)
    return content


def test_updates_are_recorded_as_the_models_that_they_lead_to(tmp_path: Path) -> None:
    strategy = ProvenanceStrategy(
        AddsUpdates(**quiet), tmp_path / "a", names="partition-id", clients_send="updates", strict=True
    )
    run(strategy, updated, clients=4, rounds=2)
    run(
        ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path / "b", names="partition-id", strict=True),
        clients=4,
        rounds=2,
    )
    ours, weights = (read_round(tmp_path / folder / "rounds", 2) for folder in "ab")
    assert close(ours)
    for name in weights.weights():
        assert np.allclose(ours.client_stack()[name], weights.client_stack()[name], atol=1e-6)
    wrong = ProvenanceStrategy(AddsUpdates(**quiet), tmp_path / "c")
    run(wrong, updated, clients=4, rounds=1)
    assert set(wrong.missed) == {1}
    with pytest.raises(InputError, match="clients_send='update': did you mean updates"):
        ProvenanceStrategy(AddsUpdates(**quiet), tmp_path / "d", clients_send="update")


class KeepsTheRest(flower.FedAvg):
    """Puts what clients return into its model, whose other arrays stay."""

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
        self.whole = dict(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        arrays, metrics = super().aggregate_train(server_round, replies)
        return ArrayRecord({**self.whole, **arrays}), metrics


def body(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
    content = trained(index, number, arrays)
    content["arrays"] = ArrayRecord({name: a for name, a in content["arrays"].items() if name != "b"})
    return content


@pytest.mark.parametrize("make", [KeepsTheRest, flower.FedAvg])
def test_a_part_of_the_model_is_recorded_as_that_part(
    make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("flwr").propagate = True
    strategy = ProvenanceStrategy(make(**quiet), tmp_path, names="partition-id", parameters=["w", "b"], strict=True)
    run(strategy, body, clients=3, rounds=2)
    for number in (1, 2):
        stored = read_round(tmp_path / "rounds", number)
        assert set(stored.weights()) == set(stored.previous()) == {"w", "kernel", "temperature", "norm.running_mean"}
        assert stored.buffers == {"kernel", "temperature", "norm.running_mean"}
        assert close(stored)
        check_tensors(stored)
    assert journal(tmp_path)[0]["not_shared"] == ["b"]
    assert "clients do not share b: recorded is the rest" in caplog.text


def test_arrays_that_only_some_return_or_that_nobody_was_sent_are_refused(tmp_path: Path) -> None:
    def uneven(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
        return (body if index == 1 else trained)(index, number, arrays)

    def more(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
        return trained(index, number, {**arrays, "own": np.zeros(2, dtype=np.float32)})

    for answer, words in (
        (uneven, "returned other arrays, shapes or types"),
        (more, "returned 'own', which it was not"),
    ):
        strategy = ProvenanceStrategy(Tolerant(), tmp_path / answer.__name__, weight_key="num-examples")
        run(strategy, answer, clients=3, rounds=1)
        assert words in strategy.missed[1]


class Tolerant(flower.FedAvg):
    """Averages what all clients have."""

    def __init__(self) -> None:
        super().__init__(**quiet)

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        contents = [reply.content for reply in replies]
        names = set.intersection(*(set(content["arrays"]) for content in contents))
        means = {n: np.mean([content["arrays"][n].numpy() for content in contents], axis=0) for n in names}
        return ArrayRecord({name: Array(np.asarray(value)) for name, value in means.items()}), None


# Types.


def halved(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
    content = trained(index, number, {name: value.astype(np.float32) for name, value in arrays.items()})
    small = {name: Array(np.asarray(array.numpy().astype(np.float16))) for name, array in content["arrays"].items()}
    content["arrays"] = ArrayRecord(small)
    return content


class InSingle(flower.FedAvg):
    """Keeps its model in single precision, whatever clients send."""

    def __init__(self) -> None:
        super().__init__(**quiet)

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        contents = [reply.content for reply in replies]
        sizes = [content["metrics"]["num-examples"] for content in contents]
        names = list(contents[0]["arrays"])
        made = {}
        for name in names:
            parts = [c["arrays"][name].numpy().astype(np.float64) * n for c, n in zip(contents, sizes, strict=True)]
            made[name] = Array(np.asarray(sum(parts) / sum(sizes), dtype=np.float32))
        return ArrayRecord(made), None


def test_every_tensor_keeps_its_own_type(tmp_path: Path) -> None:
    """Clients send half precision, the global model stays single: it was stored as half once."""
    run(ProvenanceStrategy(InSingle(), tmp_path, names="partition-id", strict=True), halved, clients=4, rounds=2)
    stored = read_round(tmp_path / "rounds", 2)
    assert {stored.client_stack()[name].dtype for name in stored.weights()} == {torch.float16}
    assert {value.dtype for value in (*dict(stored.weights()).values(), *dict(stored.previous()).values())} == {
        torch.float32
    }
    check_tensors(stored)
    for name, value in restated(stored).items():  # exact to single precision, which half could not hold
        assert np.abs(value - stored.weights()[name].double().numpy()).max() < 1e-6
    first = read_round(tmp_path / "rounds", 1)
    assert np.array_equal(first.previous()["w"].numpy(), initial()["w"].numpy())


def test_a_federation_in_half_precision(tmp_path: Path) -> None:
    run(ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path, strict=True), halved, clients=4, rounds=3)
    first, last = (read_round(tmp_path / "rounds", number) for number in (1, 3))
    assert first.previous()["w"].dtype == torch.float32
    assert first.weights()["w"].dtype == last.previous()["w"].dtype == last.weights()["w"].dtype == torch.float16
    check_tensors(first)
    check_tensors(last)


@pytest.mark.parametrize("kind", ["<f4", "<f8", "<f2", "<i8", "|u1", "|b1", ">f4"])
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (5, 7), (2, 3, 4)])
def test_arrays_are_read_as_numpy_does(kind: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.asarray(np.random.default_rng(0).normal(size=shape) * 5).astype(kind)
    arrays = [Array(values), Array(np.asarray(values, order="F"))]
    if kind == ">f4":  # of which torch has no tensors
        with pytest.raises((TypeError, ValueError)):
            tensor(arrays[0])
        return
    monkeypatch.setattr(Array, "numpy", lambda self: pytest.fail("numpy's reader"))
    for array in arrays:
        assert shape_of(array) == shape
        assert torch.equal(tensor(array), torch.from_numpy(values))


# Names.


def test_clients_are_named_by_a_function(tmp_path: Path) -> None:
    nodes = Clients(3, trained).nodes
    hospitals = dict(zip(nodes, ("north", "south", "east"), strict=True))
    run(ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path / "a", names=hospitals.__getitem__, strict=True), clients=3)
    recorded = read_recorded(tmp_path / "a")
    assert recorded is not None
    assert set(recorded.clients.values()) == {"north", "south", "east"}
    run(ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path / "b", names=nodes.index, strict=True), clients=3)
    recorded = read_recorded(tmp_path / "b")
    assert recorded is not None
    assert recorded.clients == {0: "client 0", 1: "client 1", 2: "client 2"}
    failing = ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path / "c", names=lambda node: None)
    run(failing, clients=3, rounds=1)
    assert "the function that names clients returned None for node" in failing.missed[1]


def test_without_metrics_clients_are_called_by_their_node(tmp_path: Path) -> None:
    def silent(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
        return reply({name: value + np.float32(index + 1) for name, value in arrays.items()}, **{"num-examples": 5})

    run(ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path, strict=True), silent, clients=2, rounds=1)
    assert set(read_round(tmp_path / "rounds", 1).names) == {f"node {node}" for node in Clients(2, silent).nodes}


# The old interface.


def test_a_strategy_of_the_old_interface_is_sent_to_the_wrapper_for_it(tmp_path: Path) -> None:
    from flwr.server.strategy import FedAvg

    with pytest.raises(InputError) as caught:
        ProvenanceStrategy(FedAvg(), tmp_path)
    assert "provfl_cli.flower.legacy.ProvenanceStrategy" in str(caught.value)
    assert "not known" not in str(caught.value)
    with pytest.raises(InputError, match="str is no strategy of flwr"):
        ProvenanceStrategy("FedAvg", tmp_path)  # type: ignore[arg-type]


# The thread that writes.


def test_a_round_is_written_while_the_next_one_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer of round 1 does not go on before round 2 trains: written in the open it would wait for ever."""
    training, waiting = threading.Event(), []
    write = recorder_module.write_round

    def slow(aggregated: Any, *arguments: Any) -> Any:
        if aggregated.asked.number == 1:
            assert training.wait(60)
        waiting.append((aggregated.asked.number, torch.get_num_threads()))
        return write(aggregated, *arguments)

    def answer(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
        if number == 2:
            training.set()
        return trained(index, number, arrays)

    monkeypatch.setattr(recorder_module, "write_round", slow)
    threads = torch.get_num_threads()
    strategy = ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path, names="partition-id", keep=1)
    run(strategy, answer, clients=3, rounds=3)
    assert waiting == [(1, 1), (2, 1), (3, 1)]
    assert torch.get_num_threads() == threads
    assert strategy.recorded == [1, 2, 3]
    assert stored_rounds(tmp_path / "rounds") == [3]
    assert not any(thread.name == "ProvFL-writer" for thread in threading.enumerate())
    assert read_round(tmp_path / "rounds", 3).names == ("partition-id 0", "partition-id 1", "partition-id 2")


def test_what_fails_in_the_thread_is_said_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = recorder_module.write_round

    def full(aggregated: Any, *arguments: Any) -> Any:
        if aggregated.asked.number == 2:
            raise OSError(28, "No space left on device")
        return write(aggregated, *arguments)

    monkeypatch.setattr(recorder_module, "write_round", full)
    strategy = ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path / "a")
    run(strategy, clients=3, rounds=3)
    assert strategy.recorded == [1, 3]
    assert "No space left on device" in strategy.missed[2]
    strict = ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path / "b", strict=True)
    with pytest.raises(RunError, match="round 2 cannot be recorded: OSError"):
        run(strict, clients=3, rounds=3)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_a_process_that_ends_has_written_whole_rounds(killed: bool, tmp_path: Path) -> None:
    """A strategy that is driven by hand and never closed: its last round is written before the process has ended; one
    that is killed leaves whole rounds alone."""
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from flwr.supercore.task_identity import TaskIdentity
for name in ("_run_id", "_node_id", "_task_id"):
    setattr(TaskIdentity, name, 1)
from flwr.app import ConfigRecord
from tests.test_flower_any_strategy import *
write = recorder_module.write_round
def slow(aggregated, *arguments):
    time.sleep(2 if aggregated.asked.number == 2 else 0)
    return write(aggregated, *arguments)
recorder_module.write_round = slow
strategy = ProvenanceStrategy(flower.FedAvg(**quiet), {str(tmp_path / "records")!r})
grid, arrays = Clients(3, trained), initial()
for number in (1, 2):
    messages = strategy.configure_train(number, arrays, ConfigRecord(), grid)
    arrays, _ = strategy.aggregate_train(number, grid.send_and_receive(messages))
print("driven", flush=True)
"""
    arguments = [sys.executable, "-c", code]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "driven":
            break
    if killed:
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    process.wait(60)
    rounds = tmp_path / "records" / "rounds"
    assert stored_rounds(rounds) == ([1] if killed else [1, 2])
    assert [path.name for path in rounds.iterdir() if path.name.startswith(".")] == []
    assert killed or not (tmp_path / "records" / ".provfl.lock").exists()


# Traced: the effect of leaving each client out agrees.


def learner(updates: bool = False, half: bool = False, part: bool = False) -> Any:
    def answer(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
        state = {name: torch.from_numpy(value) for name, value in arrays.items()}
        made = {name: value.numpy() for name, value in learnt(index, state).items()}
        if part:
            made = {name: value for name, value in made.items() if name.startswith("body")}
        if updates:
            made = {name: value - arrays[name] for name, value in made.items()}
        if half:
            made = {name: value.astype(np.float16) for name, value in made.items()}
        return reply(made, **{"num-examples": len(examples(index)[1]), "partition-id": index})

    return answer


CASES: dict[str, tuple[Callable[[], Any], Any, dict[str, Any]]] = {
    "filtered": (lambda: OnlyLargest(**quiet), learner(), {}),
    "step": (lambda: Server(step=0.5), learner(), {}),
    "row": (lambda: Server(momentum=0.5), learner(), {"mismatch": "row"}),
    "updates": (lambda: AddsUpdates(**quiet), learner(updates=True), {"clients_send": "updates"}),
    "half": (lambda: InSingle(), learner(half=True), {}),
    "part": (lambda: KeepsTheRest(**quiet), learner(part=True), {}),
}


def served() -> nn.Module:
    """What `--model tests.test_flower_any_strategy:served` calls: the model that the federation began with."""
    torch.manual_seed(0)
    return Net()


def data() -> dict[str, torch.Tensor]:
    """What `--data tests.test_flower_any_strategy:data` calls."""
    inputs, labels = examples(-1)
    return {"inputs": inputs, "labels": labels}


class OnlyLargest(OnlyLarge):
    """Of six clients the four with the most examples."""

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        return flower.FedAvg.aggregate_train(
            self, server_round, [r for r in replies if r.content["metrics"]["num-examples"] >= 76]
        )


@pytest.mark.parametrize("case", CASES)
def test_leaving_each_client_out_agrees_with_the_trace(case: str, tmp_path: Path) -> None:
    make, answer, settings = CASES[case]
    torch.manual_seed(0)
    net = Net()
    strategy = ProvenanceStrategy(make(), tmp_path, names="partition-id", strict=True, **settings)
    strategy.start(Clients(6, answer), ArrayRecord(net.state_dict()), num_rounds=3)
    stored = read_round(tmp_path / "rounds", 3)
    inputs = examples(-1)[0][:30]
    net.load_state_dict({name: value.float() for name, value in stored.weights().items()}, strict=False)
    target = net(inputs).argmax(1)
    traced = trace(net, inputs, stored, "faithful", target)
    measured = effects(stored, inputs, target, net)
    contributions = np.asarray(traced.values)
    agreement = [spearmanr(contributions[n], measured[n]).statistic for n in range(len(inputs))]
    assert np.mean(agreement) > 0.95


@pytest.mark.parametrize("case", ["row", "part", "half"])
def test_the_command_traces_such_a_recording(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, answer, settings = CASES[case]
    strategy = ProvenanceStrategy(make(), tmp_path, names="partition-id", **settings)
    strategy.start(Clients(6, answer), ArrayRecord(served().state_dict()), num_rounds=2)
    capsys.readouterr()
    where = ["--model", f"{__name__}:served", "--data", f"{__name__}:data", "--input", "3", "--json"]
    assert command([str(tmp_path), *where]) == 0
    method = json.loads(capsys.readouterr().out)["methods"][0]
    assert {client["name"] for client in method["clients"]} == {f"partition-id {k}" for k in range(6)}
    assert ("difference" in json.dumps(method)) == (case == "row")
