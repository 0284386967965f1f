"""How strategies of Flower's old interface fuse: recognised by their class and settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from flwr.server import strategy as legacy
from torch import Tensor

from ..errors import InputError
from ..fusion.fedavg import FedAvg
from ..fusion.fuse import Fusion
from ..fusion.median import Median
from ..fusion.trimmed_mean import TrimmedMean
from ..recording.rounds import NotRecorded
from .inversion import adagrad, adam, momentum, yogi

TREES = (legacy.FedXgbBagging, legacy.FedXgbCyclic, legacy.FedXgbNnAvg)

Rule = Callable[[Any, int], Fusion]
"""The fusion of a strategy, given it and the number of clients."""

RULES: dict[type, Rule] = {
    legacy.FedAvg: lambda strategy, count: FedAvg(),
    legacy.FedAvgM: lambda strategy, count: momentum(strategy),
    legacy.FedAdagrad: lambda strategy, count: adagrad(strategy),
    legacy.FedAdam: lambda strategy, count: adam(strategy),
    legacy.FedYogi: lambda strategy, count: yogi(strategy),
    legacy.FedMedian: lambda strategy, count: Median(),
    legacy.FedTrimmedAvg: lambda strategy, count: TrimmedMean(count=int(strategy.beta * count)),  # rounded as Flower
}


def require_known(strategy: Any) -> None:
    """Raise InputError where `strategy` is none, or combines something else than weights."""
    kind = type(strategy).__name__
    if not isinstance(strategy, legacy.Strategy):
        raise InputError(f"legacy.ProvenanceStrategy: {kind} is no strategy of flwr.server.strategy: give one")
    if isinstance(strategy, TREES):
        raise InputError(f"legacy.ProvenanceStrategy: {kind} combines trees; only networks' weights are traced")


def expected(strategy: Any, declared: bool, count: int) -> Fusion:
    """How a strategy is expected to fuse so many clients, by its settings of this moment: as its nearest known ancestor
    does, or by average where it has none, or where that is declared.

    Raises:
        NotRecorded: its settings are none that a fusion may have.
    """
    rule = next((RULES[kind] for kind in type(strategy).__mro__ if kind in RULES), None)
    try:
        return FedAvg() if rule is None or declared else rule(strategy, count)
    except InputError as error:
        raise NotRecorded(f"{type(strategy).__name__}: {error}") from None


def state_of(strategy: Any, names: Sequence[str], server_round: int) -> dict[str, Tensor]:
    """A strategy's own state as our fusions name it, copied; momentum points along the update, unlike Flower's in
    FedAvgM."""
    state = dict[str, Tensor]()
    vectors = (("momentum", "momentum_vector", -1), ("momentum", "m_t", 1), ("second", "v_t", 1))
    for kind, attribute, sign in vectors:
        for name, value in zip(names, getattr(strategy, attribute, None) or (), strict=False):
            state[f"{kind}/{name}"] = sign * torch.as_tensor(value)
    if state or isinstance(strategy, legacy.FedAdam):
        state["round"] = torch.tensor(server_round - 1)  # FedAdam counts Flower's rounds
    return state
