"""One round of somebody's Flower app, written into ProvFL's store."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from flwr.app import Array
from torch import Tensor

from ..fusion.fuse import Fusion
from ..fusion.updates import ReturnedModels
from ..recording.rounds import (
    MOST_EXAMPLES,
    NotRecorded,
    discard,
    parameter_names,
    require_finite,
    require_shapes,
    temporary_folder,
    whole_rounded,
    write_clients,
)
from ..store.new_round import commit_round
from ..store.rounds import CLIENTS, PREVIOUS, STATE, Metrics, round_folder, stored_rounds
from ..store.tensorfile import Specs, keep_slots, open_tensors, specs_of
from .messages import EXAMPLES, Node, Reply, tensors, weight_of
from .naming import Register
from .serialized import tensor
from .statement import Server, state_round

SENT = ("weights", "updates")  # what clients send: their models, or how far these are from what they were sent


@dataclass
class AskedRound:
    """A round that has begun.

    Attributes:
        number: under which it is recorded.
        previous: the model that it began with.
        asked: the nodes that were asked to train.
        others: what nodes were sent, where that is another model than `previous`, or a part of it.
        continues: whether it begins with the model that the round before ended with.
        began: when.
        dropped: why each node that was asked has returned no model.
    """

    number: int
    previous: Mapping[str, Array]
    asked: tuple[Node, ...]
    others: Mapping[Node, Mapping[str, Array]]
    continues: bool
    began: float = field(default_factory=time.perf_counter)
    dropped: dict[Node, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AggregatedRound:
    """A round that was aggregated, with all that is needed to write it, while the next one trains.

    Attributes:
        asked: how it began.
        replies: those that were averaged, by their numbers ascending: the order of the stack.
        clients: the number of each of these nodes.
        left_out: nodes whose models the strategy did not use.
        weights: the number by which each reply counts.
        fusion: how the strategy is expected to fuse them.
        declared: whether the user declared by which metric it averages.
        key: that metric, or the strategy's own.
        kind: what the strategy is called.
        clip_norm, state, unnoised: of `statement.Server`.
        result: the arrays that it made; None: none.
        train_loss: the clients' mean loss; NaN: not known.
    """

    asked: AskedRound
    replies: tuple[Reply, ...]
    clients: Mapping[Node, int]
    left_out: tuple[Node, ...]
    weights: tuple[float, ...]
    fusion: Fusion
    declared: bool
    key: str
    kind: str
    clip_norm: float | None
    state: Mapping[str, Tensor]
    unnoised: Mapping[str, Array] | None
    result: Mapping[str, Array] | None
    train_loss: float


@dataclass(frozen=True)
class Manner:
    """How a federation is recorded: settings that hold for all of its rounds.

    Attributes:
        parameters: names of the arrays that are parameters, or the model; None: told by type and name.
        updates: whether clients send differences of weights.
        row: whether what is not explained becomes a row of its own.
    """

    parameters: Collection[str] | torch.nn.Module | None = None
    updates: bool = False
    row: bool = False


@dataclass(frozen=True)
class WrittenRound:
    """What was written: metrics, examples by client number, what the global model was stored as, names of global
    arrays that clients did not share, nodes left out unseen, and what is not explained (`Statement.difference`)."""

    metrics: Metrics
    examples: Mapping[int, int]
    specs: Specs
    not_shared: tuple[str, ...]
    left_out: tuple[Node, ...]
    difference: float


def check_replies(asked: AskedRound, replies: Sequence[Reply]) -> None:
    """Raise NotRecorded where nobody replied, or the replies are not one from each of some that were asked."""
    if not replies:
        raise NotRecorded("no client returned a model")
    nodes = [reply.node for reply in replies]
    if len(set(nodes)) < len(nodes):
        raise NotRecorded("a node replied more than once")
    if strangers := set(nodes) - set(asked.asked):
        raise NotRecorded(f"node {min(map(str, strangers))} replied and was not asked in this round")


def check_free(rounds: Path, number: int) -> None:
    """Raise NotRecorded where a round of that number is stored."""
    if round_folder(rounds, number).exists():
        raise NotRecorded(
            f"{rounds} holds a round {number} already: give another folder, or "
            f"first_round={stored_rounds(rounds)[-1] + 1}"
        )


def counted(replies: Sequence[Reply], key: str, register: Register, needed: bool) -> tuple[float, ...]:
    """The numbers by which the replies count; all 1 where the metric is not `needed` and some have not sent it."""
    if not needed and not all(isinstance(reply.metrics.get(key), int | float) for reply in replies):
        return (1.0,) * len(replies)
    return tuple(_weight(reply.metrics, key, register.called(reply.node)) for reply in replies)


def _weight(metrics: Mapping[str, object], key: str, client: str) -> float:
    """The number by which a client counts.

    Raises:
        NotRecorded: it sent none, or one that no client can count by: below 0, not finite, too large for a count.
    """
    value = weight_of(metrics, key)
    for name, number in ((key, value), (EXAMPLES, metrics.get(EXAMPLES))):
        if isinstance(number, int | float) and not 0 <= number <= MOST_EXAMPLES:
            raise NotRecorded(
                f"{client} sent {name}={number:g}: a client's number of examples, or its weight, is 0 or more and at "
                f"most {MOST_EXAMPLES:g}. The strategy may have weighed its model by it: mend that client"
            )
    return value


def _examples(metrics: Mapping[str, object], key: str) -> int:
    """Training examples: the weight where it is a whole number, else what Flower's apps usually send; 0: not known."""
    for name in (key, EXAMPLES):
        value = metrics.get(name)
        if isinstance(value, int | float) and 1 <= value <= MOST_EXAMPLES and value == int(value):
            return int(value)
    return 0


def write_round(
    aggregated: AggregatedRound,
    rounds: Path,
    register: Register,
    manner: Manner,
    history: Sequence[Metrics],
    chained: Specs | None,
    known: Collection[str],
) -> WrittenRound:
    """Write what the clients returned, state what the new model is made of, and commit the round.

    `chained`: types and shapes of the model that the stored round before ended with, where this one begins with it;
    `known`: names of all arrays that the global model has had.

    Raises:
        NotRecorded: replies do not belong together, numbers are not finite, the strategy made no model, or it is not
            known of what it made it.
    """
    asked = aggregated.asked
    if aggregated.result is None:
        raise NotRecorded("the strategy made no model of this round")
    names = _shared(aggregated, register)
    parameters = parameter_names({name: tensor(asked.previous[name]) for name in names}, manner.parameters, known)
    previous = _read({name: asked.previous[name] for name in names}, "the global model before the round")
    bases = {
        slot: tensors({name: asked.others[reply.node][name] for name in names})
        for slot, reply in enumerate(aggregated.replies)
        if reply.node in asked.others and not _same(asked.others[reply.node], asked.previous, names)
    }
    temporary = temporary_folder(rounds, asked.number)
    try:
        models = _models(aggregated, register, names, previous, bases, manner.updates)
        write_clients(rounds, asked.number, previous, models, len(aggregated.replies))
        clients = open_tensors(temporary / CLIENTS)
        made = tensors({name: aggregated.result[name] for name in names})
        statement = state_round(
            Server(
                kind=aggregated.kind,
                fusion=aggregated.fusion,
                declared=aggregated.declared,
                clip_norm=aggregated.clip_norm,
                state={key: value for key, value in aggregated.state.items() if key.partition("/")[2] in ("", *names)},
                unnoised=None
                if aggregated.unnoised is None
                else tensors({name: aggregated.unnoised[name] for name in names}),
                row=manner.row,
            ),
            ReturnedModels(
                previous=previous,
                clients=clients,
                examples=list(aggregated.weights),  # type: ignore[arg-type]  # of any kind of number
                steps=[0] * len(aggregated.replies),
                buffers=frozenset(),
                bases=bases,
            ),
            made,
            parameters,
        )
        types = {name: clients[name].dtype for name in clients}
        slots = range(len(aggregated.replies)) if statement.slots is None else statement.slots
        if statement.slots is not None:
            keep_slots(temporary / CLIENTS, statement.slots)
        kept = [aggregated.replies[slot].node for slot in slots]
        numbers = [aggregated.clients[node] for node in kept]
        examples = [_examples(aggregated.replies[slot].metrics, aggregated.key) for slot in slots]
        failed = [number for node in asked.dropped if (number := register.number(node)) is not None]
        entry = Metrics(
            asked.number,
            math.nan,
            math.nan,
            aggregated.train_loss,
            len(kept),
            round(time.perf_counter() - asked.began, 4),
            tuple(sorted(failed)),
        )
        before, after = whole_rounded(previous, types), whole_rounded(made, types)
        if chained is None or chained != specs_of(before):  # files that are there are written, not linked to those
            (temporary / PREVIOUS).touch()  # of the round before
            (temporary / STATE).touch()
        commit_round(
            temporary,
            asked.number,
            clients=numbers,
            examples=examples,
            weights=after,
            previous=before,
            state=dict(aggregated.state),
            next_state=statement.state,
            decomposition=statement.decomposition,
            buffers=frozenset(types) - set(parameters),
            history=[*history, entry],
            bases={at: whole_rounded(bases[slot], types) for at, slot in enumerate(slots) if slot in bases},
            names=[register.nodes[node] for node in kept],
            source="flower",
        )
    finally:
        discard(rounds, asked.number)
    return WrittenRound(
        metrics=entry,
        examples=dict(zip(numbers, examples, strict=True)),
        specs=specs_of(after),
        not_shared=tuple(name for name in known if name not in names),
        left_out=tuple(reply.node for reply in aggregated.replies if reply.node not in kept),
        difference=statement.difference,
    )


def _shared(aggregated: AggregatedRound, register: Register) -> list[str]:
    """Names of the arrays that all clients returned and the strategy combined, in the order of the global model.

    Raises:
        NotRecorded: clients return other arrays than each other or than those of the global model, or none of these.
    """
    asked, result = aggregated.asked, aggregated.result or {}
    first = aggregated.replies[0]
    for reply in aggregated.replies:
        client = register.called(reply.node)
        sent = asked.others.get(reply.node, asked.previous)
        if strange := [name for name in reply.arrays if name not in asked.previous or name not in sent]:
            raise NotRecorded(
                f"clients return other arrays, or other shapes, than the global model's: {client} returned "
                f"{strange[0]!r}, which it was not sent"
            )
        if reply.arrays.keys() != first.arrays.keys():
            raise NotRecorded(f"{client} returned other arrays, shapes or types than the clients before it")
    if strange := [name for name in result if name not in asked.previous]:
        raise NotRecorded(f"the new model has other arrays than the clients returned: {strange[0]!r}")
    names = [name for name in asked.previous if name in first.arrays and name in result]
    if not names:
        raise NotRecorded("the strategy made no model of the arrays that clients return")
    return names


def _models(
    aggregated: AggregatedRound,
    register: Register,
    names: Sequence[str],
    previous: Mapping[str, Tensor],
    bases: Mapping[int, Mapping[str, Tensor]],
    updates: bool,
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What each client is called and the model that it arrived at, one after the other."""
    for slot, reply in enumerate(aggregated.replies):
        client = register.called(reply.node)
        returned = _read({name: reply.arrays[name] for name in names}, client)
        require_shapes(returned, previous)
        if updates:
            base = bases.get(slot, previous)
            returned = {name: _moved(base[name], update) for name, update in returned.items()}
        yield client, returned


def _moved(base: Tensor, update: Tensor) -> Tensor:
    """The model that a client arrived at: what it began with, and the update that it sent, which half precision would
    swallow."""
    dtype = base.dtype if not base.is_floating_point() else torch.promote_types(base.dtype, update.dtype)
    moved = base.double() + update.double()
    if not dtype.is_floating_point:
        return moved.round().to(dtype)
    return moved.to(torch.promote_types(dtype, torch.float32))


def _same(record: Mapping[str, Array], other: Mapping[str, Array], names: Sequence[str]) -> bool:
    return all(record[name] is other[name] or record[name].data == other[name].data for name in names)


def _read(arrays: Mapping[str, Array], whose: str) -> dict[str, Tensor]:
    """Arrays as tensors; NotRecorded where they hold what is no number."""
    read = tensors(arrays)
    require_finite(read, whose)
    return read
