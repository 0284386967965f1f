"""What a client of `by_flower.py` does in a worker of Flower; a module of its own, which workers import by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from provfl_cli.config.plain import from_text
from provfl_cli.config.schema import Federation
from provfl_cli.data.load import federated_data
from provfl_cli.imports import later
from ways.federation import initial_model

if TYPE_CHECKING:
    from ways import flower_pictures
else:
    flower_pictures = later("ways.flower_pictures")  # only `flower` has pictures, and what reads them takes memory

Shares = Callable[[int], Any]
"""The data set of the client at a position."""

LOADED: dict[str, tuple[nn.Module, Shares, Federation]] = {}  # by the text of the configuration, read once


def trained(text: str, way: str, position: int, arrays: Any) -> tuple[dict[str, Any], float, int]:
    """One client's round in a worker of Flower: its tensors, loss and number of examples."""
    if text not in LOADED:
        torch.set_num_threads(1)
        LOADED[text] = loaded(text, way)
    model, shares, settings = LOADED[text]
    model.load_state_dict(arrays.to_torch_state_dict())
    share = shares(position)
    loader = DataLoader(share, batch_size=settings.batch_size, shuffle=True)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    model.train()
    total = 0.0
    for _ in range(settings.local_epochs):
        for batch in loader:
            inputs, labels = (batch["image"], batch["label"]) if isinstance(batch, dict) else batch
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
    return model.state_dict(), total / (settings.local_epochs * len(loader)), len(share)


def loaded(text: str, way: str) -> tuple[nn.Module, Shares, Federation]:
    """The model, every client's share, as pictures or as tensors in memory, and how clients train."""
    config = from_text(text)
    if way == "flower":
        model = flower_pictures.model(config.model, config.seed)
        return model, flower_pictures.shares(config.dataset, config.federation.clients, config.seed), config.federation
    data = federated_data(config)
    sets = [TensorDataset(client.inputs, client.labels) for client in data.clients]
    return initial_model(config.model, data, config.seed), sets.__getitem__, config.federation
