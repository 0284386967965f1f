"""One round of an NVFlare job, written into ProvFL's store."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nvflare.apis.dxo import DXO
from torch import Tensor

from ..fusion.average import example_shares
from ..fusion.decomposition import Decomposition
from ..fusion.updates import ReturnedModels
from ..recording.comparison import worst_difference
from ..recording.rounds import (
    MOST_EXAMPLES,
    NotRecorded,
    discard,
    parameter_names,
    require_finite,
    temporary_folder,
    whole_rounded,
    write_clients,
)
from ..recording.session import Recording
from ..store.new_round import commit_round
from ..store.rounds import CLIENTS, PREVIOUS, STATE, Metrics, round_folder
from ..store.tensorfile import open_tensors, specs_of, write_tensors
from .results import client_result

STEPS = "NUM_STEPS_CURRENT_ROUND"


@dataclass(frozen=True)
class Arrival:
    """A client's result that was accepted: where it waits, its arrays, in which types they were sent, and its steps."""

    file: Path
    names: frozenset[str]
    types: Mapping[str, torch.dtype]
    steps: Any


@dataclass(frozen=True)
class Finished:
    """What there is to say of a round that is recorded: the clients whose steps are not known, and the arrays of the
    global model that clients do not share."""

    without_steps: list[str]
    not_shared: list[str]


@dataclass
class PendingRound:
    """A round that has begun.

    Attributes:
        number: under which it is recorded.
        previous: the model that clients are sent; empty: none.
        began: when.
        asked: names of the clients that were sent the model.
        arrivals: what was accepted, by the client's name.
        refused: why a client's result was not accepted, by name.
        evaluated: whether clients returned metrics alone.
        aggregated: whether the server has made its new model of what was accepted.
        weights: by which NVFlare says it weighed each client; None: it does not say.
        factors: by which the aggregator multiplies clients' steps; those that are not there by 1.
        lenient: whether steps that are no number above 0 count as 1.
        train_loss: of the clients, as the server averages it; NaN: not known.
        chained: whether `previous` is the model that the round stored before it ended with.
    """

    number: int
    previous: dict[str, Tensor]
    began: float = field(default_factory=time.perf_counter)
    asked: list[str] = field(default_factory=list)
    arrivals: dict[str, Arrival] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    evaluated: bool = False
    aggregated: bool = False
    weights: Mapping[str, float] | None = None
    factors: Mapping[str, float] = field(default_factory=dict)
    lenient: bool = False
    train_loss: float = math.nan
    chained: bool = False

    @property
    def dropped(self) -> dict[str, str]:
        """Why each client that was asked is not in the round."""
        silent = {name: "no result" for name in self.asked if name not in self.arrivals}
        return silent | {name: why for name, why in self.refused.items() if name not in self.arrivals}


def begin(recording: Recording, number: int, previous: dict[str, Tensor]) -> PendingRound:
    """Note what a round begins with.

    Raises:
        NotRecorded: a round of that number is stored, or the model is not finite.
    """
    shutil.rmtree(recording.arrivals, ignore_errors=True)
    require_finite(previous, "the global model before the round")
    if round_folder(recording.rounds, number).exists():
        raise NotRecorded(f"{recording.rounds} holds a round {number} already: give another folder")
    return PendingRound(number, previous)


def take_in(recording: Recording, pending: PendingRound, client: str, content: DXO) -> None:
    """Keep on disk what a client returned.

    Raises:
        NotRecorded: it returned twice, or what cannot be recorded.
    """
    if client in pending.arrivals:
        raise NotRecorded(f"{client} returned more than one result that was accepted")
    if not pending.previous:
        raise NotRecorded("clients were sent no model, so that it is not known what they changed")
    result = client_result(content, pending.previous, client)
    recording.arrivals.mkdir(exist_ok=True)
    file = recording.arrivals / f"{len(pending.arrivals)}.safetensors"
    write_tensors(file, result.arrays)
    pending.arrivals[client] = Arrival(file, frozenset(result.arrays), result.types, result.steps)


def finish(
    recording: Recording,
    pending: PendingRound,
    result: Mapping[str, Tensor],
    parameters: Collection[str] | torch.nn.Module | None,
) -> Finished:
    """State what the new model is made of, compare it with that, and commit the round.

    Raises:
        NotRecorded: no result was accepted, or the model is not their average.
    """
    if not pending.arrivals:
        raise NotRecorded("no client's result was accepted")
    numbers = recording.enter(pending.arrivals)
    order = sorted(numbers, key=lambda name: numbers[name])
    weights, without = weights_of(pending, order)
    shared = _shared(pending, order, result)
    begun, made = ({name: arrays[name] for name in shared} for arrays in (pending.previous, result))
    write_clients(recording.rounds, pending.number, begun, _models(pending, order, shared), len(order))
    temporary = temporary_folder(recording.rounds, pending.number)
    clients = open_tensors(temporary / CLIENTS)
    types = {name: clients[name].dtype for name in clients}
    before, after = whole_rounded(begun, types), whole_rounded(made, types)
    names = parameter_names(before, parameters)
    stated = Decomposition(example_shares(weights))  # type: ignore[arg-type]
    returned = ReturnedModels(begun, clients, weights, [0] * len(order), frozenset())  # type: ignore[arg-type]
    coarsest = {name: _coarsest(name, pending, made) for name in names}
    worst, where = worst_difference(stated, returned, made, coarsest)
    if not worst <= 1:
        raise NotRecorded(
            f"what the server made of the clients differs from their average by {STEPS} by {worst:,.0f} times the "
            f"rounding error (most in {where}): jobs are recorded whose new model is that average, as FedAvg and "
            "ScatterAndGather with InTimeAccumulateWeightedAggregator make it"
        )
    examples = [_examples(pending.arrivals[name].steps) for name in order]
    failed = sorted(recording.numbers[name] for name in pending.dropped if name in recording.numbers)
    seconds = round(time.perf_counter() - pending.began, 4)
    entry = Metrics(pending.number, math.nan, math.nan, pending.train_loss, len(order), seconds, tuple(failed))
    if not (
        pending.chained and recording.specs == specs_of(before)
    ):  # files that are there are written, not linked to those of the round before
        (temporary / PREVIOUS).touch()
        (temporary / STATE).touch()
    commit_round(
        temporary,
        pending.number,
        clients=[numbers[name] for name in order],
        examples=examples,
        weights=after,
        previous=before,
        state={},
        next_state={},
        decomposition=stated,
        buffers=frozenset(types) - set(names),
        history=[*recording.history, entry],
        names=order,
        source=recording.source,
    )
    recording.specs = specs_of(after)
    recording.stored(entry, {numbers[name]: count for name, count in zip(order, examples, strict=True)})
    return Finished(without, [name for name in pending.previous if name not in shared])


def _shared(pending: PendingRound, order: Sequence[str], result: Mapping[str, Tensor]) -> list[str]:
    """Names of the arrays that all clients returned and the server combined, in the order of the global model.

    Raises:
        NotRecorded: clients return other arrays than each other, or than those of the global model, or none of these.
    """
    first = pending.arrivals[order[0]].names
    for client in order:
        names = pending.arrivals[client].names
        if strange := sorted(names - pending.previous.keys()):
            raise NotRecorded(f"{client} returned {strange[0]!r}, which is not among the global model's arrays")
        if names != first:
            raise NotRecorded(f"{client} returned other arrays than {order[0]}")
    shared = [name for name in pending.previous if name in first and name in result]
    if not shared:
        raise NotRecorded("the server made no model of the arrays that clients return")
    for name in shared:
        if result[name].shape != pending.previous[name].shape:
            raise NotRecorded(f"{name} has another shape in the new model than in the one before")
    return shared


def _models(
    pending: PendingRound, order: Sequence[str], names: Sequence[str]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What each client is called and returned, one after the other."""
    for client in order:
        arrays = open_tensors(pending.arrivals[client].file)
        yield client, {name: arrays[name] for name in names}


def journal_line(recording: Recording, pending: PendingRound, reason: str | None) -> dict[str, Any]:
    """What the journal says of a round: who was asked, who is in it, who dropped out and why."""
    fused = sorted(recording.numbers[name] for name in pending.arrivals) if reason is None else []
    return {
        "round": pending.number,
        "asked": sorted(pending.asked),
        "fused": fused,
        "dropped": pending.dropped,
        "recorded": reason is None,
        "reason": reason,
        "seconds": round(time.perf_counter() - pending.began, 4),
    }


def clear(recording: Recording, pending: PendingRound) -> None:
    """Delete what is not in a stored round."""
    discard(recording.rounds, pending.number)
    shutil.rmtree(recording.arrivals, ignore_errors=True)


def weights_of(pending: PendingRound, order: Sequence[str]) -> tuple[list[float], list[str]]:
    """By what the server weighs each client, and the names of those who did not say how many steps they made.

    Raises:
        NotRecorded: a number is none that a client can count by.
    """
    weights, without = [], []
    for name in order:
        steps = pending.arrivals[name].steps
        weight = _number(steps)
        if pending.lenient and not (0 < weight < math.inf):
            weight = 1.0
        if steps is None or not _number(steps) > 0:
            without.append(name)
        if pending.weights is not None and name in pending.weights:
            weight = float(pending.weights[name])
        else:
            weight *= float(pending.factors.get(name, 1.0))
        if not 0 <= weight <= MOST_EXAMPLES:
            raise NotRecorded(
                f"{name} counts by {weight:g}: {STEPS}, and the aggregator's weight of a client, are 0 or more and at "
                f"most {MOST_EXAMPLES:g}: mend that client"
            )
        weights.append(weight)
    if not sum(weights):
        raise NotRecorded(f"every client counts by 0: let clients send {STEPS}")
    return weights, without


def _number(steps: Any) -> float:
    """Steps as NVFlare takes them: where a client says nothing, 1; NaN where it is no number."""
    if steps is None:
        return 1.0
    try:
        return math.nan if isinstance(steps, bool) else float(steps)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _examples(steps: Any) -> int:
    """What is stored as a client's examples: its steps, where they are a whole number above 0; else 0, not known."""
    value = math.nan if steps is None else _number(steps)
    return int(value) if 1 <= value <= MOST_EXAMPLES and value == int(value) else 0


def _coarsest(name: str, pending: PendingRound, result: Mapping[str, Tensor]) -> torch.dtype:
    """The type of least precision among what a parameter is computed from."""
    types = [arrival.types[name] for arrival in pending.arrivals.values() if name in arrival.types]
    types += [pending.previous[name].dtype, result[name].dtype]
    return max((kind for kind in types if kind.is_floating_point), key=lambda kind: torch.finfo(kind).eps)
