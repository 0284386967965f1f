"""Strategies of Flower's old interface, recorded by `provfl_cli.flower.legacy.ProvenanceStrategy`."""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from provfl_cli.errors import InputError
from provfl_cli.provenance import trace
from provfl_cli.store.matching_tensors import check_tensors
from provfl_cli.store.recorded import read_recorded
from provfl_cli.store.rounds import read_round, stored_rounds

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
pytest.importorskip("flwr")

from flwr.common import (
    Code,
    DisconnectRes,
    FitIns,
    FitRes,
    GetParametersRes,
    Parameters,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server import Server, SimpleClientManager
from flwr.server import strategy as legacy
from flwr.server.client_proxy import ClientProxy
from flwr.serverapp.strategy import FedAvg as MessageFedAvg

from provfl_cli.flower.legacy import ProvenanceStrategy

from .flower_clients import Net, effects, examples, learnt, restated

TURN = threading.Lock()
NAMES = tuple(Net().state_dict())
quiet: dict[str, Any] = {"fraction_evaluate": 0.0, "min_fit_clients": 2, "min_available_clients": 2}


@pytest.fixture(autouse=True)
def frozen() -> None:
    """Strategies collect garbage after every client: a quarter of a second where much is imported."""
    gc.freeze()


def start() -> Parameters:
    """The model that a federation begins with."""
    torch.manual_seed(0)
    return ndarrays_to_parameters([value.numpy() for value in Net().state_dict().values()])


class Client(ClientProxy):
    """A client in this process; `fit` as in most apps: arrays in the order of the state dict."""

    def __init__(self, index: int, work: Callable[[int, list[np.ndarray]], FitRes]) -> None:
        super().__init__(str(index))
        self.index, self.work, self.partition_id = index, work, index

    def get_parameters(self, ins: Any, timeout: Any, group_id: Any) -> GetParametersRes:
        return GetParametersRes(Status(Code.OK, ""), start())

    def fit(self, ins: FitIns, timeout: Any, group_id: Any) -> FitRes:
        with TURN:  # Flower asks clients in threads, whose numpy readers disturb each other in Python 3.11
            return self.work(self.index, parameters_to_ndarrays(ins.parameters))

    def get_properties(self, ins: Any, timeout: Any, group_id: Any) -> Any:
        raise NotImplementedError

    def evaluate(self, ins: Any, timeout: Any, group_id: Any) -> Any:
        raise NotImplementedError

    def reconnect(self, ins: Any, timeout: Any, group_id: Any) -> DisconnectRes:
        return DisconnectRes("")


def fitted(arrays: list[np.ndarray], index: int, **metrics: Any) -> FitRes:
    count, metrics = len(examples(index)[1]), {"site": f"site {index}", **metrics}
    return FitRes(Status(Code.OK, ""), ndarrays_to_parameters(arrays), count, metrics)


def trained(index: int, arrays: list[np.ndarray]) -> FitRes:
    state = {name: torch.from_numpy(value) for name, value in zip(NAMES, arrays, strict=True)}
    return fitted([value.numpy() for value in learnt(index, state).values()], index)


def run(strategy: Any, work: Any = trained, clients: int = 6, rounds: int = 3) -> list[np.ndarray]:
    """Flower's own server loop; the last model."""
    random.seed(3)
    manager = SimpleClientManager()
    for index in range(clients):
        manager.register(Client(index, work))
    server = Server(client_manager=manager, strategy=strategy)
    server.fit(rounds, timeout=None)
    if isinstance(strategy, ProvenanceStrategy):
        strategy.close()
    return parameters_to_ndarrays(server.parameters)


class OnlyLarge(legacy.FedAvg):
    """Discards results with few examples."""

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        return super().aggregate_fit(server_round, [r for r in results if r[1].num_examples >= 76], failures)


class Carries(legacy.FedAvg):
    """Keeps half of what it did in the round before."""

    velocity: list[np.ndarray] | None = None

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
        self.before = parameters_to_ndarrays(parameters)
        return super().configure_fit(server_round, parameters, client_manager)

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        made, metrics = super().aggregate_fit(server_round, results, failures)
        moved = [after - before for after, before in zip(parameters_to_ndarrays(made), self.before, strict=True)]
        if self.velocity is not None:
            moved = [m + np.float32(0.5) * v for m, v in zip(moved, self.velocity, strict=True)]
        self.velocity = moved
        return ndarrays_to_parameters([b + m for b, m in zip(self.before, moved, strict=True)]), metrics


STRATEGIES: dict[str, tuple[Callable[[], Any], dict[str, Any], set[str]]] = {
    "FedAvg": (lambda: legacy.FedAvg(**quiet, initial_parameters=start()), {}, set()),
    "FedAvg, not in place": (lambda: legacy.FedAvg(**quiet, inplace=False), {}, set()),
    "FedProx": (lambda: legacy.FedProx(**quiet, proximal_mu=0.1), {}, set()),
    "FedAvgM": (
        lambda: legacy.FedAvgM(
            **quiet, initial_parameters=start(), server_momentum=0.7, server_learning_rate=0.5
        ), {}, {"momentum"}),
    "FedAdam": (
        lambda: legacy.FedAdam(**quiet, initial_parameters=start(), eta=0.01, tau=1e-3), {}, {"momentum"}),
    "FedYogi": (
        lambda: legacy.FedYogi(**quiet, initial_parameters=start(), eta=0.01, tau=1e-3), {}, {"momentum"}),
    "FedAdagrad": (lambda: legacy.FedAdagrad(**quiet, initial_parameters=start(), eta=0.01, tau=1e-3), {}, set()),
    "FedMedian": (lambda: legacy.FedMedian(**quiet), {}, set()),
    "FedTrimmedAvg": (lambda: legacy.FedTrimmedAvg(**quiet, beta=0.2), {}, set()),
    "Krum": (lambda: legacy.Krum(**quiet, num_malicious_clients=1), {}, set()),
    "MultiKrum": (lambda: legacy.Krum(**quiet, num_malicious_clients=1, num_clients_to_keep=3), {}, set()),
    "filtering": (lambda: OnlyLarge(**quiet), {}, set()),
    "own momentum": (lambda: Carries(**quiet), {"mismatch": "row"}, {"difference"}),
}  # fmt: skip


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_of_the_old_interface_are_stated_exactly_and_left_as_they_are(name: str, tmp_path: Path) -> None:
    make, settings, kinds = STRATEGIES[name]
    plain = run(make())
    strategy = ProvenanceStrategy(make(), tmp_path, model=Net(), strict=True, **settings)
    result = run(strategy)
    # Results come in the order in which threads end, so that sums differ in the last digit.
    assert all(np.allclose(own, other, atol=1e-5) for own, other in zip(result, plain, strict=True))
    assert strategy.recorded == stored_rounds(tmp_path / "rounds") == [1, 2, 3]
    stored = read_round(tmp_path / "rounds", 3)
    check_tensors(stored)
    for key, value in restated(stored).items():
        assert np.allclose(value, stored.weights()[key].double(), atol=2e-6), key
    assert set(stored.decomposition.unsent) == kinds
    assert [np.asarray(value).tolist() for value in dict(stored.weights()).values()] == [
        dict(zip(NAMES, result, strict=True))[key].tolist() for key in stored.weights()
    ]
    if name == "filtering":
        assert stored.clients == (2, 3, 4, 5)
    if name == "Krum":
        assert len(stored.clients) == 1


def test_the_trace_agrees_with_leaving_each_client_out(tmp_path: Path) -> None:
    run(ProvenanceStrategy(OnlyLarge(**quiet), tmp_path, model=Net(), strict=True))
    stored = read_round(tmp_path / "rounds", 3)
    net, inputs = Net(), examples(-1)[0][:30]
    net.load_state_dict(dict(stored.weights()))
    target = net(inputs).argmax(1)
    values = np.asarray(trace(net, inputs, stored, "faithful", target).values)
    measured = effects(stored, inputs, target, net)
    assert np.mean([spearmanr(values[n], measured[n]).statistic for n in range(len(inputs))]) > 0.95


def test_clients_that_send_updates(tmp_path: Path) -> None:
    class Adds(legacy.FedAvg):
        def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
            self.before = parameters_to_ndarrays(parameters)
            return super().configure_fit(server_round, parameters, client_manager)

        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            made, metrics = super().aggregate_fit(server_round, results, failures)
            moved = [before + update for before, update in zip(self.before, parameters_to_ndarrays(made), strict=True)]
            return ndarrays_to_parameters(moved), metrics

    def work(index: int, arrays: list[np.ndarray]) -> FitRes:
        made = parameters_to_ndarrays(trained(index, arrays).parameters)
        return fitted([after - before for after, before in zip(made, arrays, strict=True)], index)

    strategy = ProvenanceStrategy(Adds(**quiet), tmp_path, model=Net(), clients_send="updates", strict=True)
    run(strategy, work)
    stored = read_round(tmp_path / "rounds", 3)
    for key, value in restated(stored).items():
        assert np.allclose(value, stored.weights()[key].double(), atol=2e-6)
    assert float((stored.client_stack()["body.weight"] - stored.previous()["body.weight"]).abs().max()) < 0.5


def test_names_of_arrays_and_clients_and_dropouts(tmp_path: Path) -> None:
    def work(index: int, arrays: list[np.ndarray]) -> FitRes:
        if index == 1:
            raise RuntimeError("out of memory")
        result = trained(index, arrays)
        if index == 2:
            result.status = Status(Code.FIT_NOT_IMPLEMENTED, "not today")
        return result

    strategy = ProvenanceStrategy(legacy.FedAvg(**quiet), tmp_path / "a", names=list(NAMES), clients="site")
    run(strategy, work, clients=4, rounds=2)
    stored = read_round(tmp_path / "a" / "rounds", 2)
    assert set(stored.names) == {"site 0", "site 3"}
    assert set(stored.weights()) == set(NAMES)
    line = json.loads((tmp_path / "a" / "flower.jsonl").read_text().splitlines()[0])
    assert line["dropped"] == {"node 1": "out of memory", "node 2": "not today"}
    strategy = ProvenanceStrategy(legacy.FedAvg(**quiet), tmp_path / "b", model=Net())
    run(strategy, clients=3, rounds=1)
    recorded = read_recorded(tmp_path / "b")
    assert recorded is not None
    assert recorded.clients == {0: "client 0", 1: "client 1", 2: "client 2"}  # their partitions
    strategy = ProvenanceStrategy(legacy.FedAvg(**quiet), tmp_path / "c", model=Net(), clients={"0": "a", 1: "b"})
    run(strategy, clients=2, rounds=1)
    assert read_round(tmp_path / "c" / "rounds", 1).names == ("a", "b")


def test_arrays_that_do_not_fit_are_refused_before_the_first_round(tmp_path: Path) -> None:
    def never(index: int, arrays: list[np.ndarray]) -> FitRes:
        pytest.fail("trained")

    wrong = ndarrays_to_parameters([np.zeros((2, 2), dtype=np.float32)] * 4)
    few = legacy.FedAvg(**quiet, initial_parameters=ndarrays_to_parameters([np.zeros(2)]))
    with pytest.raises(InputError, match=r"parameters of the strategy: 1 arrays, the model's state_dict.. has 4"):
        ProvenanceStrategy(few, tmp_path / "a", model=Net())
    other = legacy.FedAvg(**quiet, initial_parameters=wrong)
    with pytest.raises(InputError, match=r"array 0 is .2, 2., body.weight in the model's state_dict.. is .16, 10."):
        ProvenanceStrategy(other, tmp_path / "a", model=Net())
    with pytest.raises(InputError, match=r"initial parameters: 4 arrays, names= has 2"):  # which a client has sent
        run(ProvenanceStrategy(legacy.FedAvg(**quiet), tmp_path / "b", names=["w", "b"]), never)

    class Late(legacy.FedAvg):
        def initialize_parameters(self, client_manager: Any) -> Parameters:
            return wrong

    with pytest.raises(InputError, match=r"array 0 is \[2, 2\]"):
        run(ProvenanceStrategy(Late(**quiet), tmp_path / "c", model=Net()), never)


def test_arrays_that_do_not_fit_are_refused_at_the_first_reply(tmp_path: Path) -> None:
    def headless(index: int, arrays: list[np.ndarray]) -> FitRes:
        return fitted(arrays[:2], index)

    with pytest.raises(InputError, match="the first reply: 2 arrays"):
        run(ProvenanceStrategy(legacy.FedAvg(**quiet), tmp_path, model=Net()), headless)


def test_what_is_wrong_is_said_when_the_strategy_is_wrapped(tmp_path: Path) -> None:
    plain = legacy.FedAvg(**quiet)
    for arguments, words in (
        ({}, "give model="),
        ({"model": Net(), "names": ["a"]}, "one of the two"),
        ({"names": "partition-id"}, "clients='partition-id' names clients"),
        ({"names": ["a", "a"]}, "holds twice a"),
        ({"model": Net}, "model= is a type"),
        ({"model": Net(), "mismatch": "rows"}, "did you mean row"),
    ):
        with pytest.raises(InputError, match=words):
            ProvenanceStrategy(plain, tmp_path, **arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="wrap it in provfl_cli"):
        ProvenanceStrategy(MessageFedAvg(fraction_evaluate=0.0), tmp_path, model=Net())  # type: ignore[arg-type]


APP = """
import sys
import flwr as fl, torch
from flwr.client import NumPyClient
from tests.flower_clients import Net, examples, learnt
from provfl_cli.flower.legacy import ProvenanceStrategy                        # ProvFL

torch.set_num_threads(1)

class Client(NumPyClient):
    def __init__(self, index):
        self.index = index
    def fit(self, parameters, config):
        names = Net().state_dict()
        state = {name: torch.from_numpy(value) for name, value in zip(names, parameters)}
        made = learnt(self.index, state)
        return [value.numpy() for value in made.values()], len(examples(self.index)[1]), {}

def client_fn(context):
    return Client(int(context.node_config["partition-id"])).to_client()

if __name__ == "__main__":
    initial = fl.common.ndarrays_to_parameters([value.numpy() for value in Net().state_dict().values()])
    strategy = fl.server.strategy.FedAvg(fraction_evaluate=0.0, initial_parameters=initial)
    strategy = ProvenanceStrategy(strategy, sys.argv[1], model=Net())          # ProvFL
    fl.simulation.start_simulation(
        client_fn=client_fn, num_clients=2, config=fl.server.ServerConfig(num_rounds=2), strategy=strategy,
        client_resources={"num_cpus": 1}, ray_init_args={"include_dashboard": False, "num_cpus": 2},
    )
"""


@pytest.mark.slow
def test_an_app_of_the_old_interface_on_ray(tmp_path: Path) -> None:
    """`start_simulation` as apps call it; the wrapper is two lines, and nothing is closed."""
    pytest.importorskip("ray")
    (tmp_path / "app.py").write_text(APP)
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "RAY_DEDUP_LOGS": "0"}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "app.py"), str(tmp_path / "records")],
        env=environment, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert stored_rounds(tmp_path / "records" / "rounds") == [1, 2]
    stored = read_round(tmp_path / "records" / "rounds", 2)
    assert stored.names == ("client 0", "client 1")
    net, inputs = Net(), examples(-1)[0][:5]
    assert trace(net, inputs, stored, "faithful").values.shape == (5, 2)
