"""Predictions of made up rounds as attribution methods are given them: small networks in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from provfl_cli.attribution.method import Case
from provfl_cli.config.validate import provenance_preset
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.privacy import NoPrivacy
from provfl_cli.models.text import sequence_classifier
from provfl_cli.store.rounds import Round

CPU = torch.device("cpu")


def double_network(kind: type[nn.Module] = nn.ReLU, hidden: int = 7) -> nn.Module:
    """8x8 pictures to 10 classes, one hidden layer, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), kind(), nn.Linear(hidden, 10)).double()


def double_case(stored: Round, model: nn.Module | None = None, count: int = 5, **changed: Any) -> Case:
    """Random pictures, explained as classes 0, 1, 2, …"""
    fields: dict[str, Any] = {
        "model": double_network() if model is None else model,
        "inputs": torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64),
        "numbers": np.arange(count),
        "labels": np.zeros(count, dtype=np.int64),
        "classes": np.arange(count),
        "stored": stored,
        "fusion": FedAvg(),
        "privacy": NoPrivacy(),
        "form": None,
        "provenance": provenance_preset("provfl"),
        "seed": 0,
        "device": CPU,
    }
    return Case(**{**fields, **changed})


def small_gpt() -> nn.Module:
    """A text model of three small blocks, eight tokens of thirty to four classes."""
    small = {"n_layer": 3, "n_embd": 8, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return sequence_classifier(4, 30, 8, 0, architecture="openai-gpt", config=small)


def small_net() -> nn.Module:
    """What `--model tests.cases:small_net` calls: four numbers to three classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def small_data() -> dict[str, torch.Tensor]:
    """What `--data tests.cases:small_data` calls."""
    return {"inputs": torch.linspace(-1, 1, 80).view(20, 4), "labels": torch.arange(20) % 3}
