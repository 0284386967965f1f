"""The same rounds given to Flower's strategies come to the same models, where Flower has the same."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from provfl_cli.fusion.fuse import fuse
from provfl_cli.fusion.updates import ReturnedModels

from .fusions import configured, random_round

pytestmark = pytest.mark.slow
TOLERANCE = 2e-6  # of float32


@dataclass(frozen=True)
class Reply:
    """What a strategy reads of a client's message."""

    content: Any

    def has_error(self) -> bool:
        return False


@pytest.fixture(scope="module")
def flower() -> Any:
    """The module of Flower's strategies."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    pytest.importorskip("flwr")
    from flwr.serverapp import strategy

    gc.freeze()  # strategies collect garbage after every client, a quarter of a second where much is imported
    return strategy


def flat_round(seed: int, count: int = 7) -> ReturnedModels:
    """A round without buffers: Flower tells them from parameters as little as it tells names."""
    returned = random_round(seed, count)
    names = returned.parameters
    return replace(
        returned,
        previous={name: returned.previous[name] for name in names},
        clients={name: returned.clients[name] for name in names},
        buffers=frozenset(),
    )


def record(tensors: Any) -> Any:
    """Tensors as Flower's arrays, in double precision."""
    from flwr.app import Array, ArrayRecord

    return ArrayRecord({name: Array(np.asarray(value, dtype=np.float64)) for name, value in tensors.items()})


def theirs(strategy: Any, returned: ReturnedModels, number: int = 1) -> dict[str, np.ndarray]:
    """What a strategy makes of a round."""
    from flwr.app import MetricRecord, RecordDict

    replies = []
    for client, count in enumerate(returned.examples):
        arrays = record({name: sent[client] for name, sent in returned.clients.items()})
        replies.append(Reply(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": count})})))
    arrays, _ = strategy.aggregate_train(number, replies)
    return {name: array.numpy() for name, array in arrays.items()}


def assert_same(ours: Any, flowers: dict[str, np.ndarray]) -> None:
    assert set(ours) == set(flowers)
    for name, value in ours.items():
        assert np.allclose(value, flowers[name], rtol=TOLERANCE, atol=TOLERANCE), name


PLAIN: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("fedavg", {}, "FedAvg", {}),
    ("fedprox", {"mu": 0.1}, "FedProx", {"proximal_mu": 0.1}),
    ("median", {}, "FedMedian", {}),
    ("trimmed_mean", {"fraction": 0.2}, "FedTrimmedAvg", {"beta": 0.2}),
    ("trimmed_mean", {"fraction": 0.3}, "FedTrimmedAvg", {"beta": 0.3}),
    ("krum", {"attackers": 2}, "Krum", {"num_malicious_nodes": 2}),
    (
        "multi_krum",
        {"attackers": 2, "keep": 4, "weighted": True},
        "MultiKrum",
        {"num_malicious_nodes": 2, "num_nodes_to_select": 4},
    ),
    ("bulyan", {"attackers": 2, "selection": "once"}, "Bulyan", {"num_malicious_nodes": 2}),
]


@pytest.mark.parametrize(("name", "settings", "kind", "its_settings"), PLAIN)
@pytest.mark.parametrize("count", [11, 12])
def test_a_round(flower: Any, name: str, settings: Any, kind: str, its_settings: Any, count: int) -> None:
    for seed in range(2):
        returned = flat_round(seed, count)
        ours = fuse(configured(name, **settings), returned, {}).weights
        assert_same(ours, theirs(getattr(flower, kind)(**its_settings), returned))


def test_bulyan_of_the_paper_is_not_flowers(flower: Any) -> None:
    """Flower selects once among all; the older strategy in `flwr.server` selects again and again, as the paper does.

    With three attackers two neighbours count to the last, so that no ties arise, which it would settle by index.
    """
    from flwr.server.strategy import aggregate

    same = other = 0
    for seed in range(4):
        returned = flat_round(seed, 15)
        ours = fuse(configured("bulyan", attackers=3), returned, {}).weights
        lists = [
            ([sent[client].double().numpy() for sent in returned.clients.values()], count)
            for client, count in enumerate(returned.examples)
        ]
        made = aggregate.aggregate_bulyan(lists, 3, aggregate.aggregate_krum, to_keep=0)
        same += all(np.allclose(value, made[at], atol=TOLERANCE) for at, value in enumerate(ours.values()))
        once = theirs(flower.Bulyan(num_malicious_nodes=3), returned)
        other += any(not np.allclose(value, once[name], atol=1e-3) for name, value in ours.items())
    assert same == 4
    assert other > 0


SERVER: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("fedavgm", {"momentum": 0.7, "learning_rate": 0.5}, "FedAvgM",
     {"server_momentum": 0.7, "server_learning_rate": 0.5}),
    ("fedadagrad", {"eta": 0.2, "tau": 0.01, "initial_v": 0.0}, "FedAdagrad", {"eta": 0.2, "tau": 0.01}),
    ("fedyogi", {"eta": 0.2, "beta1": 0.8, "beta2": 0.9, "tau": 0.01, "initial_v": 0.0}, "FedYogi",
     {"eta": 0.2, "beta_1": 0.8, "beta_2": 0.9, "tau": 0.01}),
    ("fedadam", {"eta": 0.2, "beta1": 0.8, "beta2": 0.9, "tau": 0.01, "initial_v": 0.0, "bias_correction": True},
     "FedAdam", {"eta": 0.2, "beta_1": 0.8, "beta_2": 0.9, "tau": 0.01}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "kind", "its_settings"), SERVER)
def test_four_rounds_of_a_server_optimizer(flower: Any, name: str, settings: Any, kind: str, its_settings: Any) -> None:
    fusion, strategy, state = configured(name, **settings), getattr(flower, kind)(**its_settings), {}
    weights = flat_round(0).previous
    for number in range(1, 5):
        returned = replace(flat_round(number), previous=weights)
        if kind == "FedAvgM":
            strategy.current_arrays = record(weights)
        else:
            strategy.current_arrays = {key: value.double().numpy() for key, value in weights.items()}
        fused = fuse(fusion, returned, state)
        assert_same(fused.weights, theirs(strategy, returned, number))
        weights, state = fused.weights, fused.state


def test_the_adaptive_ones_of_the_paper_are_not_flowers(flower: Any) -> None:
    """The options do something: without them the first round is another."""
    returned = flat_round(3)
    for name, kind in (("fedadam", "FedAdam"), ("fedyogi", "FedYogi"), ("fedadagrad", "FedAdagrad")):
        strategy = getattr(flower, kind)(eta=0.2, tau=0.5)
        strategy.current_arrays = {key: value.double().numpy() for key, value in returned.previous.items()}
        ours = fuse(configured(name, eta=0.2, tau=0.5), returned, {}).weights
        flowers = theirs(strategy, returned)
        assert max(float(np.abs(value.numpy() - flowers[key]).max()) for key, value in ours.items()) > 1e-3


def test_norm_clipping_is_fedavg_of_flowers_clipped_models(flower: Any) -> None:
    from flwr.supercore.differential_privacy import compute_clip_model_update

    returned = flat_round(5)
    for tensors in (returned.previous, returned.clients):
        del tensors["temperature"]  # Flower's clipping leaves out what has no dimensions
    before = [value.double().numpy() for value in returned.previous.values()]
    sent = {name: value.clone() for name, value in returned.clients.items()}
    for client in range(len(returned.examples)):
        model = [value[client].double().numpy() for value in returned.clients.values()]
        compute_clip_model_update(model, before, 2.5)
        for value, clipped in zip(sent.values(), model, strict=True):
            value[client] = value.new_tensor(clipped)
    flowers = theirs(flower.FedAvg(), replace(returned, clients=sent))
    assert_same(fuse(configured("norm_clipping", max_norm=2.5), returned, {}).weights, flowers)
