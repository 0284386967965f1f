"""One round of somebody's Flower app, written into ProvFL's store."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from ..fusion.state_dicts import not_finite
from ..fusion.updates import ReturnedModels
from ..harmless import harmless_json
from ..store.new_round import begin_round, commit_round
from ..store.recorded import JOURNAL, RecordedFederation, write_recorded
from ..store.rounds import CLIENTS, PREVIOUS, STATE, Metrics, remove_round, round_folder, stored_rounds
from ..store.tensorfile import open_tensors, specs_of, write_slot
from .inversion import StrategyRecord, invert, weight_key_of
from .messages import NotRecorded, arrays_of, metric_of, same_arrays, tensors, weight_of
from .naming import Register

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # torch's own names of statistics
MOST_EXAMPLES = 10**12  # of one client
LONGEST = 300  # characters of a client's error that are kept


@dataclass
class PendingRound:
    """A round that has begun.

    Attributes:
        number: under which it is recorded.
        previous: the model that it began with.
        asked: where each message went that asked a node to train.
        others: what nodes were sent, where that is another model than `previous`.
        chained: whether it begins with the model that the round stored before it ended with.
        began: when.
        clients, contents, temporary: once replies are in: the number of every node that returned a model, what these
            returned in the order of the stack, and where the round is being written.
        dropped: why each other node that was asked is not in the round.
    """

    number: int
    previous: dict[str, Tensor]
    asked: tuple[Metadata, ...]
    others: dict[int, ArrayRecord]
    chained: bool
    began: float
    clients: dict[int, int] = field(default_factory=dict)
    contents: list[RecordDict] = field(default_factory=list)
    temporary: Path | None = None
    dropped: dict[int, str] = field(default_factory=dict)


def begin(
    rounds: Path, number: int, previous: dict[str, Tensor], arrays: ArrayRecord, messages: Sequence[Message],
    key: str | None, chained: bool,
) -> PendingRound:  # fmt: skip
    """Note what a round begins with, and what each node is sent.

    Raises:
        NotRecorded: a round of that number is stored, what nodes are sent is not the model, or that is not finite.
    """
    others = {}
    checked = dict[int, bool]()  # messages of a round mostly share their content
    for message in messages:
        sent = arrays_of(message.content, key)
        if id(sent) not in checked:
            if sent.keys() != arrays.keys():
                raise NotRecorded("clients are sent other arrays than those of the global model")
            checked[id(sent)] = same_arrays(sent, arrays)
        if not checked[id(sent)]:
            others[message.metadata.dst_node_id] = sent
    _require_finite(previous, "the global model before the round")
    if round_folder(rounds, number).exists():
        raise NotRecorded(
            f"{rounds} holds a round {number} already: give another folder, or "
            f"first_round={stored_rounds(rounds)[-1] + 1}"
        )
    asked = tuple(message.metadata for message in messages)
    return PendingRound(number, previous, asked, others, chained, time.perf_counter())


def note_dropouts(pending: PendingRound, replies: Sequence[Message]) -> None:
    """Note who was asked and returned nothing, or an error."""
    silent = {sent.dst_node_id: "no reply" for sent in pending.asked}
    nodes = {sent.message_id: sent.dst_node_id for sent in pending.asked if sent.message_id}
    for reply in replies:
        # Of a node that is gone the superlink itself says so: then the reply is not from that node.
        node = nodes.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)
        silent.pop(node, None)
        if reply.has_error():
            pending.dropped[node] = _brief(str(reply.error.reason))
    pending.dropped |= silent


def take_in(
    pending: PendingRound, replies: Sequence[Message], rounds: Path, register: Register, key: str | None
) -> None:
    """Write what the clients returned to disk, one after the other, before the strategy consumes it.

    Raises:
        NotRecorded: nobody replied, replies do not belong together, or numbers are not finite.
    """
    good = [reply for reply in replies if not reply.has_error()]
    if not good:
        raise NotRecorded("no client returned a model")
    contents = {reply.metadata.src_node_id: reply.content for reply in good}
    if len(contents) < len(good):
        raise NotRecorded("a node replied more than once")
    if strangers := contents.keys() - {sent.dst_node_id for sent in pending.asked}:
        raise NotRecorded(f"node {min(strangers)} replied and was not asked in this round")
    pending.clients = register.enter(contents)
    order = sorted(contents, key=lambda node: pending.clients[node])
    pending.contents = [contents[node] for node in order]
    specs = None
    for slot, node in enumerate(order):
        returned = tensors(arrays_of(contents[node], key))
        own = specs_of(returned)
        if specs is None:
            specs = own
            if {name: shape for name, (_, shape) in own.items()} != {
                name: tuple(tensor.shape) for name, tensor in pending.previous.items()
            }:
                raise NotRecorded("clients return other arrays, or other shapes, than the global model's")
            pending.temporary = rounds / f".{pending.number:04d}.partial"
            begin_round(rounds, pending.number, specs, len(order))
        if own != specs:
            raise NotRecorded(
                f"{register.nodes[node]} returned other arrays, shapes or types than the clients before it"
            )
        _require_finite(returned, register.nodes[node])
        write_slot(rounds / f".{pending.number:04d}.partial" / CLIENTS, returned, slot)


def finish(
    pending: PendingRound,
    strategy: Strategy,
    weight_key: str | None,
    seen: StrategyRecord,
    result: ArrayRecord | None,
    metrics: MetricRecord | None,
    parameters: Collection[str],
    register: Register,
    history: Sequence[Metrics],
) -> tuple[Metrics, dict[int, int]]:
    """State what the new model is made of and commit the round; returns its metrics and everybody's examples.

    Raises:
        NotRecorded: the strategy made no model, or it is not known of what it made it.
    """
    if result is None:
        raise NotRecorded("the strategy made no model of this round")
    assert pending.temporary is not None
    order = sorted(pending.clients, key=lambda node: pending.clients[node])
    numbers = [pending.clients[node] for node in order]
    clients = open_tensors(pending.temporary / CLIENTS)
    types = {name: clients[name].dtype for name in clients}
    made = tensors(result)
    if made.keys() != types.keys():
        raise NotRecorded("the new model has other arrays than the clients returned")
    key = weight_key_of(strategy, weight_key)
    bases = {slot: tensors(pending.others[node]) for slot, node in enumerate(order) if node in pending.others}
    weights: list[Any] = [  # of any kind of number, in place of examples
        _weight(content, key, register.called(node)) for node, content in zip(order, pending.contents, strict=True)
    ]
    returned = ReturnedModels(
        previous=pending.previous,
        clients=clients,
        examples=weights,
        steps=[0] * len(order),
        buffers=frozenset(),
        bases=bases,
    )
    decomposition, state = invert(
        strategy, weight_key is not None, returned, pending.contents, seen, made, list(parameters)
    )
    examples = [_examples(content, key) for content in pending.contents]
    seconds = round(time.perf_counter() - pending.began, 4)
    failed = tuple(sorted(number for node in pending.dropped if (number := register.number(node)) is not None))
    entry = Metrics(pending.number, math.nan, math.nan, _train_loss(metrics), len(order), seconds, failed)
    if not pending.chained:  # files that are there are written, not linked to those of the round before
        (pending.temporary / PREVIOUS).touch()
        (pending.temporary / STATE).touch()
    commit_round(
        pending.temporary,
        pending.number,
        clients=numbers,
        examples=examples,
        weights=_typed(made, types),
        previous=_typed(pending.previous, types),
        state=dict(seen.state),
        next_state=state,
        decomposition=decomposition,
        buffers=frozenset(types) - set(parameters),
        history=[*history, entry],
        bases={slot: _typed(base, types) for slot, base in bases.items()},
        names=[register.nodes[node] for node in order],
        source="flower",
    )
    return entry, dict(zip(numbers, examples, strict=True))


def parameter_names(arrays: Mapping[str, Tensor], parameters: Collection[str] | torch.nn.Module | None) -> list[str]:
    """Names of the arrays that are parameters; the others are buffers and are not attributed.

    `parameters`: their names, or the model; None: all but those of whole numbers and those that torch's layers name as
    running statistics.

    Raises:
        NotRecorded: some of them are not among the arrays.
    """
    if parameters is None:
        return [
            name
            for name, tensor in arrays.items()
            if tensor.is_floating_point() and name.rpartition(".")[2] not in BUFFERS
        ]
    if isinstance(parameters, torch.nn.Module):
        parameters = [name for name, _ in parameters.named_parameters(remove_duplicate=False)]
    if missing := [name for name in parameters if name not in arrays]:
        raise NotRecorded(
            f"parameters= names {missing[0]!r}, which is not among the federation's arrays ({', '.join(arrays)})"
        )
    return [name for name in arrays if name in parameters]


def describe(folder: Path, register: Register, labels: tuple[str, ...]) -> None:
    """Write who the clients are."""
    names = {number: name for name, number in register.numbers.items()}
    write_recorded(folder, RecordedFederation("flower", names, dict(register.examples), labels))


def note(folder: Path, pending: PendingRound, register: Register, reason: str | None) -> None:
    """Add a line on the round to the journal: who was asked, who is in it, who dropped out and why."""
    line = {
        "round": pending.number,
        "asked": [register.called(sent.dst_node_id) for sent in pending.asked],
        "fused": sorted(pending.clients.values()) if reason is None else [],
        "dropped": {register.called(node): why for node, why in pending.dropped.items()},
        "recorded": reason is None,
        "reason": reason,
        "seconds": round(time.perf_counter() - pending.began, 4),
    }
    with (folder / JOURNAL).open("a", encoding="utf-8") as file:
        file.write(harmless_json(json.dumps(line, ensure_ascii=False)) + "\n")


def forget(rounds: Path, keep: str | int) -> None:
    """Delete the rounds before the last `keep`; `all` keeps them."""
    if keep != "all":
        for number in stored_rounds(rounds)[: -(1 if keep == "last" else int(keep))]:
            remove_round(rounds, number)


def discard(pending: PendingRound) -> None:
    """Delete what was written of a round that is not recorded."""
    if pending.temporary is not None:
        shutil.rmtree(pending.temporary, ignore_errors=True)


def _require_finite(arrays: Mapping[str, Tensor], whose: str) -> None:
    for name, tensor in arrays.items():
        if said := not_finite(tensor):
            raise NotRecorded(f"{whose}: {name} holds {said}")


def _typed(arrays: Mapping[str, Tensor], types: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    """Arrays in the types that clients work with: averages of whole numbers come as fractions."""
    return {
        name: (value if types[name].is_floating_point or not value.is_floating_point() else value.round()).to(
            types[name]
        )
        for name, value in arrays.items()
    }


def _weight(content: RecordDict, key: str, client: str) -> float:
    """The number by which a client counts.

    Raises:
        NotRecorded: it sent none, or one that no client can count by: below 0, not finite, too large for a count.
    """
    weight = weight_of(content, key)
    for name, value in ((key, weight), ("num-examples", metric_of(content, "num-examples"))):
        if isinstance(value, int | float) and not 0 <= value <= MOST_EXAMPLES:
            raise NotRecorded(
                f"{client} sent {name}={value:g}: a client's number of examples, or its weight, is 0 or more and at "
                f"most {MOST_EXAMPLES:g}. The strategy may have weighed its model by it: mend that client"
            )
    return weight


def _examples(content: RecordDict, key: str) -> int:
    """Training examples: the weight where it is a whole number, else what Flower's apps usually send; 0: not known."""
    for name in (key, "num-examples"):
        value = metric_of(content, name)
        if isinstance(value, int | float) and value >= 1 and value == int(value):
            return int(value)
    return 0


def _brief(reason: str) -> str:
    """The last line of an error, which of a traceback is the one that says what was wrong."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return lines[-1][:LONGEST] if lines else "an error without a reason"


def _train_loss(metrics: MetricRecord | None) -> float:
    for name in ("train_loss", "train-loss", "loss"):
        if metrics is not None and isinstance(value := metrics.get(name), int | float):
            return float(value)
    return math.nan
