"""A small federation of four clients to train again in parts, and plans for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from provfl_cli.config.schema import Store
from provfl_cli.data.federated import FederatedData
from provfl_cli.retraining.designs import ALL, Retraining, every_subset
from provfl_cli.retraining.predictions import Asked
from provfl_cli.retraining.train import Outcome, Training, Whole, retrained

from .federations import CPU, make_config, make_data

CLIENTS = (0, 2, 4, 6)  # as `make_data` numbers them


def plain_model() -> nn.Module:
    """Two linear layers, from one seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def make_whole(cache: Path, data: FederatedData | None = None, model: nn.Module | None = None, **changes: Any) -> Whole:
    """The federation; `changes` are those of `make_config`. Clients take all their examples for one batch."""
    settings = {"batch_size": 1000, "rounds": 2, **changes}
    config = replace(make_config(**settings), store=Store(str(cache), "last", 20))
    return Whole(config, data or make_data(), {0: model or plain_model()}, CPU)


def make_asked(data: FederatedData, number: int = 2, count: int = 20) -> list[Asked]:
    """The first test inputs, whose true class is asked about."""
    return [Asked(number, data.test.inputs[:count], np.arange(count), data.test.labels[:count].numpy())]


def all_subsets(seed: int = 0) -> list[Retraining]:
    """Every subset of the four."""
    return [Retraining(ALL, subset, seed) for subset in every_subset(CLIENTS)]


def outcomes(whole: Whole, plan: Sequence[Retraining], workers: int | None = 2) -> dict[Training, Outcome]:
    """All of a plan, trained."""
    with retrained(whole, make_asked(whole.data), plan, workers) as results:
        return dict(results)
