"""What only data, model and configuration together can tell, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ..config.parts import Injection
from ..config.schema import Federation
from ..data.federated import FederatedData
from ..errors import InputError
from ..federation.participation import Roster
from .device import choose_device


def check_precision(precision: str, device: str) -> None:
    """Raise InputError for mixed precision (`federation.precision`) without a GPU; `device` as it was asked for."""
    if precision != "float32" and choose_device(device).type == "cpu":
        raise InputError(
            f"federation.precision={precision}: mixed precision is for a GPU, and this run is on the CPU: "
            "federation.precision=float32"
        )


def check_batches(batch_size: int, data: FederatedData, name: str, model: nn.Module) -> None:
    """Raise InputError where a batch has a single example, and the model, called `name`, normalises over the batch."""
    smallest = min(min(len(client.labels), batch_size) for client in data.clients)
    if smallest < 2 and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise InputError(
            f"model={name} normalises over a batch, which one example is too few for: "
            "federation.batch_size=2 or more, and partition.min_examples_per_client=2 or more"
        )


def check_attackers(
    injection: Injection, data: FederatedData, rosters: Sequence[Roster], federation: Federation
) -> None:
    """Raise InputError where no attacker's work of a round in which it attacks is ever fused: nothing is planted then.

    Who plants a backdoor without attacking in rounds of its own attacks whenever it trains.

    Args:
        injection: what is planted.
        data: of the clients that were kept.
        rosters: who takes part in each round.
        federation: the settings that these were made of.
    """
    ids = [client.id for client in data.clients]
    numbers = [roster.number for roster in rosters]
    attacks = {(client, number) for client in ids for number in numbers if injection.attacks(client, number)}
    if not attacks and data.faults.trigger is not None:
        attacks = {(client, number) for client in data.faults.clients for number in numbers}
    fused = {(ids[work.position], work.from_round) for roster in rosters for work in roster.fused}
    if not attacks or attacks & fused:
        return
    attackers = sorted({client for client, _ in attacks})
    rounds = sorted({number for _, number in attacks})
    there = sorted({number for client, number in fused if client in attackers})
    who = f"client{'s'[: len(attackers) > 1]} {', '.join(map(str, attackers))}"
    parts = f"rounds {', '.join(map(str, there))}" if there else "no round"
    ways = [f"injection.rounds=[{','.join(map(str, there))}]"] if there else []
    ways.append("other injection.clients")
    if federation.clients_per_round is not None:
        ways.append("federation.clients_per_round=null")
    raise InputError(
        f"injection.clients={attackers}: attack in round{'s'[: len(rounds) > 1]} {', '.join(map(str, rounds))}, and "
        f"the work of {who} is fused in {parts}: nothing would be planted: {', '.join(ways[:-1])}"
        f"{' or ' if len(ways) > 1 else ''}{ways[-1]}"
    )


def make_cache(cache: Path) -> None:
    """Make the folder of the training cache; InputError where that cannot be."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"store.cache={cache}: no folder can be made there ({error.strerror})") from error
