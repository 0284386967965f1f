"""Servers that add updates from models of different age, as a Flower recording recognises them."""

from __future__ import annotations

import pytest
import torch

from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.updates import ReturnedModels

from .fusions import whole_shares

pytest.importorskip("flwr")

from provfl_cli.flower.statement import Server, state_round
from provfl_cli.recording.rounds import NotRecorded


def test_a_recorded_server_that_adds_updates_of_any_age_is_recognised() -> None:
    """Its weights are measured: staleness, learning rate and all."""
    random, shape = torch.Generator().manual_seed(2), (30, 20)
    previous, first, *sent = (torch.randn(shape, generator=random) for _ in range(5))
    weights = torch.tensor([0.31, 0.05, 0.2])
    bases = {1: {"w": first}}
    returned = ReturnedModels({"w": previous}, {"w": torch.stack(sent)}, [10, 20, 30], [0] * 3, frozenset(), bases)
    made = previous + sum(
        weight * (model - (first if at == 1 else previous))
        for at, (weight, model) in enumerate(zip(weights, sent, strict=True))
    )
    statement = state_round(Server("Buffering", FedAvg()), returned, {"w": made}, ["w"])
    shares = whole_shares(statement.decomposition, returned)["w"]
    assert shares[:, 0, 0].tolist() == pytest.approx(weights.tolist(), abs=1e-5)
    assert not statement.decomposition.unsent
    with pytest.raises(NotRecorded, match="differs from what was expected"):
        state_round(Server("Buffering", FedAvg()), returned, {"w": made + 0.01 * sent[0] ** 2}, ["w"])
