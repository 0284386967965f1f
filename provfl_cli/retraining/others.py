"""A federation of the clients that are left: trained from the beginning, or continued for some rounds."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import schema
from ..data.federated import FederatedData
from ..errors import InputError
from ..federation.events import Event
from ..federation.key import training_key
from ..federation.train import federated_rounds
from ..store.cache import Entry
from .subset import subset, why_not


@dataclass(frozen=True)
class Trained:
    """What came of training: the global tensors, buffers included, and seconds of it, whenever that was."""

    weights: dict[str, Tensor]
    seconds: float


def from_the_beginning(
    config: schema.Config, data: FederatedData, clients: Collection[int]
) -> tuple[schema.Config, FederatedData]:
    """The federation of these clients alone, for as many rounds as that of all; InputError where it cannot be."""
    rounds = config.federation.rounds
    if reason := why_not(config, data, clients, rounds):
        raise InputError(f"--how retrain: {reason}")
    return subset(config, data, clients, config.seed, rounds)


def continued(
    config: schema.Config, data: FederatedData, clients: Collection[int], rounds: int
) -> tuple[schema.Config, FederatedData]:
    """The same for some more rounds, after those of the whole federation.

    Who had left stays away, who attacked in some rounds alone is honest, and the learning rate is what it was at the
    end. The server begins without momentum, and orders and draws are those of the first rounds.

    Raises:
        InputError: it cannot be.
    """
    federation = config.federation
    gone = {client for client, last in (federation.leaves or {}).items() if last < federation.rounds}
    settled = replace(
        federation,
        joins=None,
        leaves=None,
        learning_rate=federation.learning_rate * federation.final_rate,
        final_rate=1.0,
        rate_until=None,
        warmup_steps=0,
    )
    config = replace(config, federation=settled, injection=config.injection.until(federation.rounds).until(0))
    clients = [client for client in clients if client not in gone]
    if reason := why_not(config, data, clients, rounds):
        raise InputError(f"--how finetune: {reason}")
    return subset(config, data, clients, config.seed, rounds)


def is_trained(config: schema.Config, data: FederatedData, initial: nn.Module, device: torch.device) -> bool:
    """Whether the last round of a federation lies in the training cache."""
    key, _ = training_key(config, data, initial, device)
    entry = Entry(Path(config.store.cache) / "federations" / key, config.store.lock)
    return config.federation.rounds in entry.stored()


def trained(
    config: schema.Config,
    data: FederatedData,
    initial: nn.Module,
    device: torch.device,
    observe: Callable[[Event], None],
) -> Trained:
    """Train a federation from a model, or find it in the training cache.

    Raises:
        RunError: as `federation.train.federated_rounds`.
    """
    last = config.federation.rounds
    with federated_rounds(config, data, initial, Path(config.store.cache), {last}, device, observe) as rounds:
        (stored,) = rounds
        weights = stored.weights()
        # Copies: the cache may be pruned after this.
        return Trained(
            {name: weights[name].clone() for name in weights}, sum(metrics.seconds for metrics in stored.history)
        )
