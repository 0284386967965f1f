"""A federation of some of the clients alone: its configuration and its data, and why it could not be trained."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ..config import schema
from ..config.retrain import Retrain
from ..data.federated import FederatedData
from ..errors import InputError
from ..federation.participation import rosters


def subset(
    config: schema.Config, data: FederatedData, clients: Collection[int], seed: int, rounds: int
) -> tuple[schema.Config, FederatedData]:
    """The federation of these clients, as if the others had never been there; they keep their numbers and their data.

    A round has `clients_per_round` of them, all where they are fewer. Joins and leaves of the others go; what is
    planted in clients that are left stays. Who is chosen, drops out or is late is drawn anew: among fewer clients no
    draw can be the same. It is trained on the engine `local`, without what only traces of rounds need (lineage).

    Args:
        config: of the whole federation.
        data: of all clients.
        clients: numbers of those that are left, at least one.
        seed: of training.
        rounds: how many to train.

    Raises:
        InputError: so few clients make no federation of this configuration.
    """
    kept = tuple(client for client in data.clients if client.id in clients)
    federation = config.federation
    per_round = federation.clients_per_round
    joins, leaves = (
        None if turns is None else {client: number for client, number in turns.items() if client in clients}
        for turns in (federation.joins, federation.leaves)
    )
    smaller = replace(
        federation,
        clients_per_round=None if per_round is None else min(per_round, len(kept)),
        joins=joins,
        leaves=leaves,
        rounds=rounds,
        rate_until=federation.rate_until or federation.rounds,  # the learning rate falls as it did
    )
    changed = replace(
        config,
        federation=smaller,
        injection=config.injection.until(rounds),
        engine=schema.Engine("local"),
        provenance=replace(config.provenance, rounds="last", scope="round"),
        store=replace(config.store, keep="last"),
        retrain=Retrain(),
        evaluation=replace(config.evaluation, counterfactual="fusion"),
        attribution=(),
        tracker=None,
        experiment=None,
        seed=seed,
    )
    return changed, replace(data, clients=kept)


def why_not(
    config: schema.Config, data: FederatedData, clients: Collection[int], rounds: int, completing: Collection[int] = ()
) -> str:
    """Why a federation of these clients cannot be trained, in one line; "" where nothing speaks against it.

    A robust fusion may need more clients; with joins and leaves somebody may be alone in a round. Without any client
    there is nothing to train: the model stays the initial one. `completing` are the clients whose private
    tensors complete the model in a traced round.
    """
    for client in sorted({*completing}):
        if client not in clients:
            return f"the model is completed by what client {client} keeps for itself, who is left out"
    if not clients:
        return ""
    try:
        smaller, kept = subset(config, data, clients, config.seed, rounds)
        federation = smaller.federation
        there = len(kept.clients)
        # As the fusion is asked before a run: by how many clients there are, whatever their numbers.
        counted = replace(
            federation,
            clients=there,
            joins=None,
            leaves=None,
            concurrency=None if federation.concurrency is None else min(federation.concurrency, there),
        )
        config.fusion.check(counted)
        config.privacy.check(counted, config.fusion)
        if federation.joins or federation.leaves:
            ids = [client.id for client in kept.clients]
            rosters(federation, ids, [len(client.labels) for client in kept.clients], config.seed, rounds)
    except InputError as error:
        return str(error)
    return ""
