"""The name of a federation in the cache: a hash of everything that determines its training, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict

import torch
from torch import Tensor, nn

from ..config import schema
from ..config.environment import masked
from ..data.federated import ClientData, FederatedData
from .participation import PARTICIPATION, settings_that_matter
from .sharing import sharing_of

TRAINING = 3  # counts up whenever the same inputs would train to other numbers, or leave other files


def training_key(
    config: schema.Config, data: FederatedData, model: nn.Module, device: torch.device
) -> tuple[str, dict[str, object]]:
    """Key of a federation, 20 hexadecimal digits, and a description of it for people.

    The data enter by their content, as clients and server see it after preparation, partition and injection, so
    whatever led to the same tensors shares the training; the model by its configuration and its initial weights.
    The number of rounds is not in it: a longer run continues a shorter one, since no round depends on how many follow,
    unless the learning rate falls over them.
    """
    federation = {name: value for name, value in asdict(config.federation).items() if name not in PARTICIPATION}
    for name in ("rounds", "share", "head_epochs", "final_rate", "rate_until"):
        del federation[name]
    if config.federation.final_rate != 1:  # then a round does depend on how many there are
        federation["final"] = [config.federation.final_rate, config.federation.rate_until or config.federation.rounds]
    determines: dict[str, object] = {
        "training": TRAINING,
        "torch": torch.__version__,
        "device": device.type,
        "seed": config.seed,
        "federation": federation | settings_that_matter(config.federation),
        "fusion": _settings(config.fusion),
        # At which delta epsilon is given changes nothing that is trained.
        "privacy": {key: value for key, value in _settings(config.privacy).items() if key != "delta"},
        "model": {"target": config.model.target, "options": config.model.options},
        "initial_weights": digest(model.state_dict().items()),
        "clients": _content(data.clients),
        "test": digest((("inputs", data.evaluated.inputs), ("labels", data.evaluated.labels))),
    }
    if config.model.adapter is not None:
        determines["adapter"] = {"name": config.model.adapter, **asdict(config.lora)}
    sharing = sharing_of(model, config.federation, config.model.adapter)
    if not sharing.whole:
        determines["sharing"] = {"share": sharing.share, "head_epochs": sharing.head_epochs}
    if config.engine.on_failure == "dropout":  # who fails changes what is trained, and nobody knows beforehand
        determines["failing clients"] = "drop out"
    acts = config.injection.acts()
    if acts:  # what it does to the data is in these
        determines["returned"] = acts
    attacking = [data.attacking[client.id] for client in data.clients if client.id in data.attacking]
    if attacking:
        determines["attacking"] = _content(attacking)
    key = hashlib.sha256(json.dumps(determines, sort_keys=True, default=str).encode()).hexdigest()[:20]
    for_people = {
        "dataset": asdict(config.dataset),
        "source": asdict(data.source),
        "partition": _settings(config.partition),
        "injection": _settings(config.injection),
    }
    described = json.loads(json.dumps({"determined by": determines, "came from": for_people}, default=str))
    parts = ("dataset", "model", "partition", "injection", "fusion", "privacy", "federation")
    return key, masked(described, config.environment, *parts)


def digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, types, shapes and contents."""
    summary = hashlib.sha256()
    for name, tensor in tensors:
        summary.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        summary.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return summary.hexdigest()


def _content(clients: Iterable[ClientData]) -> str:
    """SHA-256 over what clients train on."""
    return digest(
        (f"{client.id}/{kind}", tensor)
        for client in clients
        for kind, tensor in (("inputs", client.inputs), ("labels", client.labels))
    )


def _settings(part: object) -> dict[str, object]:
    """Class and fields of a part that is its own dataclass."""
    return {"target": f"{type(part).__module__}.{type(part).__qualname__}", **asdict(part)}  # type: ignore[call-overload]
