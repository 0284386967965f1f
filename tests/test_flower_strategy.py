"""Rounds of Flower's strategies as `ProvenanceStrategy` records them."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from provfl_cli.cli.report import main as report
from provfl_cli.cli.trace import main
from provfl_cli.errors import InputError, RunError
from provfl_cli.store.recorded import read_recorded
from provfl_cli.store.rounds import read_round, stored_rounds

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
flwr = pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, Error, Message, RecordDict  # noqa: E402
from flwr.serverapp import strategy as flower  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

from provfl_cli.flower import ProvenanceStrategy  # noqa: E402
from provfl_cli.flower.naming import Register  # noqa: E402

from .flower_clients import SHAPES, ByTrust, Clients, initial, quiet, reply, restated, run, trained, trusted  # noqa: E402
from .page_data import page_data  # noqa: E402

APP = Path(__file__).parent / "flower_app"


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower asks who it is when it makes messages; and its strategies collect garbage after every client."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    gc.freeze()


def test_labels_have_different_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="labels: 'a' is there twice"):
        ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path, labels=["a", "b", "a"])


@pytest.mark.parametrize(("sent", "number"), [(7, 7), (2**62, 0), (float("inf"), 0)])
def test_a_client_gets_the_number_that_it_sends_where_tables_can_hold_it(sent: float, number: int) -> None:
    register = Register("partition-id")
    assert register.enter({1: {"partition-id": sent}}) == {1: number}


N = 11
STRATEGIES: dict[str, tuple[Callable[[], Any], set[str]]] = {
    "FedAvg": (lambda: flower.FedAvg(**quiet), set()),
    "FedProx": (lambda: flower.FedProx(proximal_mu=0.1, **quiet), set()),
    "FedAvgM": (lambda: flower.FedAvgM(server_momentum=0.7, server_learning_rate=0.5, **quiet), {"momentum"}),
    "FedAvgM off": (lambda: flower.FedAvgM(**quiet), set()),
    "FedAdam": (lambda: flower.FedAdam(eta=0.01, **quiet), {"momentum"}),
    "FedAdagrad": (lambda: flower.FedAdagrad(eta=0.01, **quiet), set()),
    "FedYogi": (lambda: flower.FedYogi(**quiet), {"momentum"}),
    "FedMedian": (lambda: flower.FedMedian(**quiet), set()),
    "FedTrimmedAvg": (lambda: flower.FedTrimmedAvg(beta=0.2, **quiet), set()),
    "Krum": (lambda: flower.Krum(num_malicious_nodes=2, **quiet), set()),
    "Krum of too few": (lambda: flower.Krum(num_malicious_nodes=9, **quiet), set()),
    "MultiKrum": (lambda: flower.MultiKrum(num_malicious_nodes=2, num_nodes_to_select=4, **quiet), set()),
    "Bulyan": (lambda: flower.Bulyan(num_malicious_nodes=2, **quiet), set()),
    "Bulyan, even": (lambda: flower.Bulyan(num_malicious_nodes=1, **quiet), set()),
    "QFedAvg": (lambda: flower.QFedAvg(client_learning_rate=0.1, q=0.3, **quiet), set()),
    "clipped by the server": (
        lambda: flower.DifferentialPrivacyServerSideFixedClipping(flower.FedAvg(**quiet), 0.5, 0.6, N), {"noise"}),
    "clipped by the server, adaptively": (
        lambda: flower.DifferentialPrivacyServerSideAdaptiveClipping(flower.FedAvg(**quiet), 0.5, N, 0.6), {"noise"}),
    "noise on FedAdam": (
        lambda: flower.DifferentialPrivacyClientSideFixedClipping(flower.FedAdam(eta=0.01, **quiet), 0.5, 0.6, N),
        {"noise", "momentum"}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_known_strategies_are_stated_exactly_and_left_as_they_are(name: str, tmp_path: Path) -> None:
    make, kinds = STRATEGIES[name]
    plain = run(make())
    strategy = ProvenanceStrategy(make(), tmp_path, names="partition-id", strict=True)
    result = run(strategy)
    assert {key: array.data for key, array in result.arrays.items()} == {
        key: array.data for key, array in plain.arrays.items()
    }
    assert strategy.recorded == stored_rounds(tmp_path / "rounds") == [1, 2, 3, 4]
    for number in strategy.recorded:
        stored = read_round(tmp_path / "rounds", number)
        for key, value in restated(stored).items():
            size = np.abs(stored.client_stack()[key].numpy()).max()
            assert np.abs(value - stored.weights()[key].numpy()).max() <= 1e-5 * size, key
    assert set(stored.decomposition.unsent) == kinds
    assert stored.buffers == {"norm.running_mean"}
    last = {key: array.numpy() for key, array in result.arrays.items()}
    assert all(np.allclose(stored.weights()[key].numpy(), last[key], rtol=1e-6) for key in last)


def test_the_average_is_stated_with_its_shares_and_names(tmp_path: Path) -> None:
    run(
        ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path, names="partition-id", labels=["a", "b"]),
        clients=3,
        rounds=1,
    )
    stored = read_round(tmp_path / "rounds", 1)
    assert stored.clients == (0, 1, 2)
    assert stored.examples == (10, 17, 24)
    assert np.allclose(stored.decomposition.example_weights, np.array([10, 17, 24]) / 51)
    assert stored.metrics.train_loss == pytest.approx((10 * 0.5 + 17 * 1.5 + 24 * 2.5) / 51)
    recorded = read_recorded(tmp_path)
    assert recorded is not None
    assert recorded.source == "flower"
    assert recorded.clients == {0: "partition-id 0", 1: "partition-id 1", 2: "partition-id 2"}
    assert recorded.examples == {0: 10, 1: 17, 2: 24}
    assert recorded.labels == ("a", "b")
    sent = initial()["w"].numpy()
    assert np.array_equal(stored.previous()["w"].numpy(), sent)
    for index in range(3):
        own = trained(index, 1, {name: array.numpy() for name, array in initial().items()})["arrays"]["w"]
        assert np.array_equal(stored.client_stack()["w"][index].numpy(), own.numpy())


def test_errors_and_silence_are_dropouts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def answer(index: int, number: int, arrays: dict[str, np.ndarray]) -> Any:
        if number == 2 and index == 1:
            return Error(0, "Traceback:\n  in train\nout of memory\n")
        return None if number == 2 and index == 3 else trained(index, number, arrays)

    logging.getLogger("flwr").propagate = True
    strategy = ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path, names="partition-id", strict=True)
    run(strategy, answer, clients=4, rounds=3)
    assert [read_round(tmp_path / "rounds", number).clients for number in (1, 2, 3)] == [
        (0, 1, 2, 3), (0, 2), (0, 1, 2, 3)
    ]  # fmt: skip
    assert read_round(tmp_path / "rounds", 2).metrics.failed == (1, 3)
    journal = [json.loads(line) for line in (tmp_path / "flower.jsonl").read_text().splitlines()]
    assert journal[1]["dropped"] == {"partition-id 1": "out of memory", "partition-id 3": "no reply"}
    assert journal[1]["fused"] == [0, 2]
    assert "round 2 is recorded without partition-id 1 (out of memory), partition-id 3 (no reply)" in caplog.text


def test_clients_are_called_as_the_mapping_says_and_keep_their_numbers(tmp_path: Path) -> None:
    grid = Clients(3, trained)
    names = {grid.nodes[0]: "north", grid.nodes[2]: "south"}
    run(ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path, names=names), clients=3, rounds=1)
    first = read_recorded(tmp_path)
    assert first is not None
    assert set(first.clients.values()) == {"north", "south", f"node {grid.nodes[1]}"}
    names[grid.nodes[1]] = "east"  # with a name of its own it is another client
    run(ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path, names=names, first_round=2), clients=3, rounds=1)
    second = read_recorded(tmp_path)
    assert second is not None
    assert {**first.clients, 3: "east"} == second.clients
    north, south, east = (
        next(n for n, name in second.clients.items() if name == node_name) for node_name in ("north", "south", "east")
    )
    assert read_round(tmp_path / "rounds", 2).clients == tuple(sorted((north, south, east)))


@pytest.mark.slow
def test_a_folder_is_continued_only_where_that_is_said(tmp_path: Path) -> None:
    make = STRATEGIES["FedAvgM"][0]
    run(ProvenanceStrategy(make(), tmp_path, names="partition-id", keep=2), rounds=3, clients=3)
    assert stored_rounds(tmp_path / "rounds") == [2, 3]
    with pytest.raises(InputError, match="holds rounds up to 3: give another folder, or first_round=4"):
        ProvenanceStrategy(make(), tmp_path)
    run(ProvenanceStrategy(make(), tmp_path, names="partition-id", first_round=4, strict=True), rounds=2, clients=3)
    assert stored_rounds(tmp_path / "rounds") == [2, 3, 4, 5]
    stored = read_round(tmp_path / "rounds", 4)
    assert np.array_equal(stored.previous()["w"].numpy(), initial()["w"].numpy())  # not what round 3 ended with
    assert not any(key.startswith("momentum") for key in stored.server_state())
    assert [entry.round for entry in stored.history] == [1, 2, 3, 4]
    assert np.allclose(restated(stored)["w"], stored.weights()["w"].numpy(), atol=1e-6)


def test_what_is_not_known_is_refused_before_training(tmp_path: Path) -> None:
    class Own(flower.Strategy):
        configure_train = aggregate_train = configure_evaluate = aggregate_evaluate = summary = None  # type: ignore

    with pytest.raises(InputError, match=r"not known how Own combines its clients.*weight_key='num-examples'"):
        ProvenanceStrategy(Own(), tmp_path)
    with pytest.raises(InputError, match="keep=0: all, last, or the number"):
        ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path, keep=0)
    with pytest.raises(InputError, match="FedXgbBagging"):
        ProvenanceStrategy(flower.FedXgbBagging(), tmp_path)


class Doubled(flower.FedAvg):
    """Derived from a known strategy, but not what it is."""

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        arrays, metrics = super().aggregate_train(server_round, replies)
        return ArrayRecord({name: Array(np.asarray(2 * array.numpy())) for name, array in arrays.items()}), metrics


def test_a_round_that_cannot_be_stated_is_left_out_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("flwr").propagate = True
    strategy = ProvenanceStrategy(Doubled(**quiet), tmp_path / "a")
    result = run(strategy, clients=3, rounds=2)
    assert result.arrays.keys() == SHAPES.keys()
    assert strategy.recorded == []
    assert set(strategy.missed) == {1, 2}
    assert "round 1 is NOT RECORDED: what Doubled made of the clients differs" in caplog.text
    assert "rounds NOT RECORDED: 1, 2" in caplog.text
    assert list((tmp_path / "a" / "rounds").iterdir()) == []
    with pytest.raises(RunError, match="round 1 cannot be recorded: what Doubled made"):
        run(ProvenanceStrategy(Doubled(**quiet), tmp_path / "b", strict=True), clients=3, rounds=2)


def test_any_strategy_with_a_declared_weight_key(tmp_path: Path) -> None:
    strategy = ProvenanceStrategy(ByTrust(), tmp_path / "a", weight_key="trust", strict=True)
    run(strategy, trusted, clients=3, rounds=2)
    assert strategy.recorded == [6, 7]
    stored = read_round(tmp_path / "a" / "rounds", 7)
    assert sorted(stored.decomposition.example_weights.tolist()) == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert stored.examples == (40, 40, 40)
    assert np.allclose(restated(stored)["w"], stored.weights()["w"].numpy(), atol=1e-6)
    wrong = ProvenanceStrategy(ByTrust(), tmp_path / "b", weight_key="num-examples")
    run(wrong, trusted, clients=3, rounds=1)
    assert "not the average by the declared weight key" in wrong.missed[6]
    missing = ProvenanceStrategy(ByTrust(), tmp_path / "c", weight_key="size")
    run(missing, trusted, clients=3, rounds=1)
    assert "no number under the weight key 'size' (its metrics: num-examples, trust)" in missing.missed[6]


@pytest.mark.parametrize("count", [-10, -0.5, float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize(("made", "key"), [(flower.FedAvg, None), (flower.FedMedian, None), (ByTrust, "trust")])
def test_a_count_that_no_client_can_have_is_not_recorded_and_trains_as_without_us(
    made: Any, key: str | None, count: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
        values = {name: value + np.float32(index + number) for name, value in arrays.items()}
        return reply(values, **{"num-examples": count if (index, number % 5) == (1, 2) else 40, "trust": 1.0})

    first = 0 if key is None else 5  # ByTrust counts its rounds from 6
    settings = {} if key else quiet
    alone = run(made(**settings), answer, clients=3, rounds=3)
    wrapped = ProvenanceStrategy(made(**settings), tmp_path / "a", weight_key=key)
    beside = run(wrapped, answer, clients=3, rounds=3)
    assert all(
        np.array_equal(value.numpy(), getattr(alone, "arrays", alone)[name].numpy(), equal_nan=True)
        for name, value in getattr(beside, "arrays", beside).items()
    )
    assert "num-examples=" in wrapped.missed[first + 2]
    assert "mend that client" in wrapped.missed[first + 2]
    assert first + 2 not in stored_rounds(tmp_path / "a" / "rounds")


class Personal(ByTrust):
    """Sends every client a model of its own."""

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
        for index, node in enumerate(grid.get_node_ids()):
            own = ArrayRecord(
                {name: Array(np.asarray(array.numpy() + np.float32(index))) for name, array in arrays.items()}
            )
            content = RecordDict({"arrays": own, "config": config})
            yield Message(content, message_type="train", dst_node_id=node)


def test_clients_that_start_from_other_models(tmp_path: Path) -> None:
    run(ProvenanceStrategy(Personal(), tmp_path, weight_key="trust", strict=True), trusted, clients=3, rounds=2)
    stored = read_round(tmp_path / "rounds", 7)
    assert len(stored.bases()) == 2  # the third was sent the global model plus 0
    assert set(stored.decomposition.unsent) == {"stale"}
    assert np.allclose(restated(stored)["w"], stored.weights()["w"].numpy(), atol=1e-5)


def test_changes_between_rounds_are_told_and_recorded_as_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrapper for differential privacy around ours adds its noise where we do not see it."""
    logging.getLogger("flwr").propagate = True
    inner = ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path, strict=True)
    run(flower.DifferentialPrivacyServerSideFixedClipping(inner, 1.0, 0.5, 3), clients=3, rounds=2)
    assert "the global model was changed between round 1 and 2" in caplog.text
    first, second = (read_round(tmp_path / "rounds", number) for number in (1, 2))
    assert not np.array_equal(first.weights()["w"], second.previous()["w"])
    assert np.allclose(restated(second)["w"], second.weights()["w"].numpy(), atol=1e-6)


def test_a_client_without_the_naming_metric_and_two_of_one_name(tmp_path: Path) -> None:
    def same(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
        return trained(0, number, arrays)

    strategy = ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path / "a", names="hospital")
    run(strategy, clients=3, rounds=1)
    assert "no metric 'hospital'" in strategy.missed[1]
    strategy = ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path / "b", names="partition-id")
    run(strategy, same, clients=3, rounds=1)
    assert "two nodes are called 'partition-id 0'" in strategy.missed[1]


def test_numbers_that_are_not_finite_are_not_recorded_and_the_client_is_named(tmp_path: Path) -> None:
    def diverged(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
        content = trained(index, number, arrays)
        if index == 1:
            arrays = {name: array.numpy().copy() for name, array in content.array_records["arrays"].items()}
            arrays["w"].flat[0] = np.nan
            content.array_records["arrays"] = ArrayRecord({name: Array(value) for name, value in arrays.items()})
        return content

    strategy = ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path, names="partition-id")
    run(strategy, diverged, clients=3, rounds=2)
    assert "partition-id 1: w holds NaN (1 of " in strategy.missed[1]
    assert "the global model before the round: w holds NaN" in strategy.missed[2]
    assert strategy.recorded == []


def test_nothing_of_a_round_is_held_after_it(tmp_path: Path) -> None:
    held: list[weakref.ref[RecordDict]] = []

    def watched(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
        content = trained(index, number, arrays)
        held.append(weakref.ref(content))
        return content

    strategy = ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path, strict=True)
    result = run(strategy, watched, clients=3, rounds=2)
    gc.collect()
    assert len(held) == 6
    assert all(content() is None for content in held)
    assert result.arrays is not None


def test_a_model_tells_its_parameters(tmp_path: Path) -> None:
    model = nn.ParameterDict({name: nn.Parameter(torch.zeros(SHAPES[name])) for name in ("w", "b")})
    run(ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path / "a", parameters=model), clients=3, rounds=1)
    assert read_round(tmp_path / "a" / "rounds", 1).buffers == SHAPES.keys() - {"w", "b"}
    wrong = ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path / "b", parameters=["w", "bias"])
    run(wrong, clients=3, rounds=1)
    assert "parameters= names 'bias', which is not among the federation's arrays (w, kernel" in wrong.missed[1]


@pytest.mark.slow
def test_a_recorded_round_is_traced_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example app's own model and data; who holds a digit is known: the odd ones are client 1's."""
    monkeypatch.syspath_prepend(APP)
    from digits_app import task

    def answer(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
        net = task.Net()
        net.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
        loader = task.load_data(index, 2, 32)
        task.train(net, loader, 1, 0.05)
        made = {name: value.numpy() for name, value in net.state_dict().items()}
        return reply(made, **{"num-examples": len(loader.dataset), "partition-id": index})

    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the net is tiny, and threads would wait for each other
    strategy = ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path, names="partition-id", strict=True)
    strategy.start(Clients(2, answer), ArrayRecord(task.Net().state_dict()), num_rounds=3)
    torch.set_num_threads(before)
    assert read_round(tmp_path / "rounds", 3).buffers == {
        f"norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    _, labels = task.test_data()
    for digit in (1, 8):
        index = int((labels == digit).nonzero()[0])
        capsys.readouterr()
        arguments = [str(tmp_path), "--model", "digits_app.task:Net", "--data", "digits_app.task:test_data", "--json"]
        assert main([*arguments, "--input", str(index), "--target", str(digit)]) == 0
        first, second = json.loads(capsys.readouterr().out)["methods"][0]["clients"]
        assert first["name"] == f"partition-id {digit % 2}"
        assert first["contribution"] > second["contribution"]
    page = tmp_path / "page.html"
    assert report([*arguments[:-1], "--out", str(page)]) == 0
    assert "297 inputs in 3 rounds" in capsys.readouterr().out
    shown = page_data(page.read_text(encoding="utf-8"))
    assert shown["clients"]["names"] == {"0": "partition-id 0", "1": "partition-id 1"}
    assert [row["round"] for row in shown["history"]] == [1, 2, 3]
    assert main([*arguments, "--input", "5"]) == 0
    said = json.loads(capsys.readouterr().out)["methods"][0]["clients"]
    last = shown["traces"][0]
    assert last["value"][5] == pytest.approx([client["contribution"] for client in said], rel=1e-3)
    assert [last["clients"][column] for column in last["top"][5]] == [client["client"] for client in said]


@pytest.mark.slow
def test_without_flower_the_extra_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['flwr'] = None; import provfl_cli.flower"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ImportError: provfl_cli.flower needs the package flwr: pip install 'provfl[flower]'" in done.stderr


def test_the_example_app_changes_fewer_than_twenty_lines() -> None:
    lines = [
        line for file in APP.rglob("*") if file.suffix in (".py", ".toml") for line in file.read_text().splitlines()
    ]
    marked = [line for line in lines if line.rstrip().endswith("# ProvFL")]
    assert 0 < len(marked) < 20
    assert any("ProvenanceStrategy" in line for line in marked)
    assert not any("provfl_cli" in line or "ProvenanceStrategy" in line for line in lines if line not in marked)


def test_a_second_server_records_in_a_folder_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Both are made before either is started, and the second runs while the first waits for its clients."""
    logging.getLogger("flwr").propagate = True
    first, second, strict = (
        ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path / "records", names="partition-id", strict=strict)
        for strict in (False, False, True)
    )
    asked: list[int] = []

    def answer(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
        if not asked:
            asked.append(index)
            run(second, clients=2, rounds=3)
            with pytest.raises(InputError, match=r"another server records into .*records: give another folder"):
                run(strict, lambda *_: pytest.fail("trained"), clients=2, rounds=1)
            with pytest.raises(InputError, match="another server records into"):
                ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path / "records", first_round=2)
        return trained(index, number, arrays)

    run(first, answer, clients=3, rounds=3)
    assert first.recorded == second.recorded == [1, 2, 3]
    assert (first.missed, second.missed) == ({}, {})
    assert (first.folder, second.folder) == (tmp_path / "records", tmp_path / "records-2")
    assert f"another server records into {first.folder}: this one is recorded in {second.folder}" in caplog.text
    assert f"3 rounds recorded in {second.folder}" in caplog.text
    for folder, clients in ((first.folder, 3), (second.folder, 2)):
        stored = read_round(folder / "rounds", 3)
        assert stored.names == tuple(f"partition-id {number}" for number in range(clients))
        assert sorted(path.name for path in folder.iterdir()) == ["flower.jsonl", "recorded.json", "rounds"]
    with pytest.raises(InputError, match="holds rounds up to 3"):  # as if there had been one
        ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path / "records")


def test_servers_started_at_the_same_moment_lose_no_round(tmp_path: Path) -> None:
    servers = [ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path / "records") for _ in range(3)]
    start = threading.Barrier(len(servers))

    def serve(server: ProvenanceStrategy) -> None:
        start.wait()
        server.start(Clients(2, trained), initial(), num_rounds=4)

    threads = [threading.Thread(target=serve, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [server.recorded for server in servers] == [[1, 2, 3, 4]] * 3
    assert {server.folder.name for server in servers} == {"records", "records-2", "records-3"}


def test_a_folder_that_cannot_be_recorded_into_is_named_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "rounds").write_text("")
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    for name, words in (("file", "is not a folder"), ("odd", "rounds is not a folder"), ("run", "the folder of a run")):
        with pytest.raises(InputError, match=words):
            ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path / name)
    (tmp_path / "good" / "rounds").mkdir(parents=True)
    (tmp_path / "good" / "rounds" / ".DS_Store").write_text("")
    strategy = ProvenanceStrategy(flower.FedAvg(**quiet), tmp_path / "good", strict=True)
    run(strategy, clients=2, rounds=2)
    assert strategy.recorded == [1, 2]
    assert (tmp_path / "good" / "rounds" / ".DS_Store").exists()
