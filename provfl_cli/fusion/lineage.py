"""Lineage: whose updates the global model is made of, over all rounds (design section 2, "Lineage").

Unrolled over the rounds a model is `W_T = W_0 + sum_k acc_k + U`: the server moves by `scale o m` with
`m <- decay m + gain delta`, and `delta` is a sum over clients, so each client has a part `m_k` of the momentum and a
part `acc_k` of the model,

    m_k <- decay m_k + gain q_k M_k o c_k (W_k - V_k)      acc_k <- acc_k + scale o m_k

where only clients of this round have the second term. What no client sent is kept in the same way: noise, and what late
clients' old bases make. Momentum was sent by clients, in earlier rounds, so it is no such row.

Accumulators are computed in float64 and stored in float32 (in float64 for a float64 model). That suffices for a
conservation residual below 1e-5: each round rounds each `acc_k` once, by at most 6e-8 of itself, so a hundred rounds
move the sum by at most 6e-6 of `sum |acc_k|`, and by a tenth of that where roundings do not all agree; the global model
is itself rounded to float32 every round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ..imports import later
from .fuse import Fusion, FusionResult

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")

FORGOTTEN = "forgotten"
KINDS = ("noise", "stale", FORGOTTEN)
WEIGHTED, PLAIN = "weighted", "plain"
VELOCITY = {WEIGHTED: "velocity", PLAIN: "plain_velocity"}


@dataclass(frozen=True)
class LineageRows:
    """Which rows the accumulators have.

    Attributes:
        clients: numbers of all clients that took part in some round, ascending: the first rows.
        kinds: what no client sent, a row each behind the clients: `noise`, `stale`, `forgotten`.
        used: those of the clients that had a nonzero `A_k` in some round.
        last: for each of the clients the last round in which it took part.
        decay: what of every accumulator is kept from one round to the next; the rest is in the row `forgotten`.
    """

    clients: tuple[int, ...]
    kinds: tuple[str, ...]
    used: tuple[int, ...]
    last: tuple[int, ...]
    decay: float

    @property
    def count(self) -> int:
        """Number of all rows."""
        return len(self.clients) + len(self.kinds)

    @cached_property
    def positions(self) -> Mapping[int | str, int]:
        """Where the row of a client (its number) or of a kind is."""
        rows: tuple[int | str, ...] = (*self.clients, *self.kinds)
        return {row: position for position, row in enumerate(rows)}


@dataclass(frozen=True)
class Lineage:
    """The accumulators after a round, read lazily.

    Attributes:
        rows: which they are.
        initial: `W_0`.
        tensors: `weighted/NAME` `[rows, *shape]`: the `acc_k` of parameter NAME; `plain/NAME` `[clients, *shape]`: the
            same without the `q_k`; `velocity/NAME` and `plain_velocity/NAME`: the `m_k`, where the server has momentum.
    """

    rows: LineageRows
    initial: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Piece:
    """Some rows of one accumulator: rows `start` onwards of its parameter's first dimension, `values` `[n, *rest]`."""

    name: str
    row: int
    start: int
    values: Tensor


@dataclass(frozen=True)
class NextLineage:
    """The accumulators that a round leaves, not computed yet.

    `specs` has type and shape of every tensor; `pieces` gives their content a block at a time, and can be read once.
    """

    rows: LineageRows
    initial: Mapping[str, Tensor]
    specs: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
    pieces: Iterator[Piece]


def next_lineage(
    fusion: Fusion, fused: FusionResult, clients: Sequence[int], number: int, before: Lineage | None, decay: float = 1.0
) -> NextLineage:
    """The accumulators after a round.

    Args:
        fusion: how the round was fused.
        fused: what came out.
        clients: numbers of the round's clients, in the order of its stack.
        number: of the round.
        before: the accumulators that the round before left; None before round 1, and only then.
        decay: what is kept of every accumulator before the round is added; 1: all.

    Raises:
        ValueError: accumulators are missing, or belong to another decay.
    """
    if (before is None) != (number == 1) or (before is not None and before.rows.decay != decay):
        raise ValueError(f"round {number}: accumulators of the round before are needed, with decay {decay}")
    rows = _next_rows(fused, clients, number, before, decay)
    previous = fused.updates.returned.previous
    specs = {}
    for name in fused.updates.names:
        dtype, shape = _stored_type(previous[name]), tuple(previous[name].shape)
        for group, count in ((WEIGHTED, rows.count), (PLAIN, len(rows.clients))):
            specs[f"{group}/{name}"] = (dtype, (count, *shape))
            if fusion.decay:
                specs[f"{VELOCITY[group]}/{name}"] = (dtype, (count, *shape))
    initial = previous if before is None else before.initial
    return NextLineage(rows, initial, specs, _pieces(fusion, fused, list(clients), rows, before))


def _next_rows(
    fused: FusionResult, clients: Sequence[int], number: int, before: Lineage | None, decay: float
) -> LineageRows:
    kinds = {"noise": bool(fused.noise), "stale": fused.updates.has_stale, "forgotten": decay < 1}
    last, used, kept = dict[int, int](), set[int](), set[str]()
    if before is not None:
        last = dict(zip(before.rows.clients, before.rows.last, strict=True))
        used, kept = set(before.rows.used), set(before.rows.kinds)
    last |= dict.fromkeys(clients, number)
    taken = fused.decomposition.candidates(fused.updates.names).tolist()
    used |= {client for client, is_used in zip(clients, taken, strict=True) if is_used}
    everybody = tuple(sorted(last))
    return LineageRows(
        clients=everybody,
        kinds=tuple(kind for kind in KINDS if kinds[kind] or kind in kept),
        used=tuple(sorted(used)),
        last=tuple(last[client] for client in everybody),
        decay=decay,
    )


def _pieces(
    fusion: Fusion, fused: FusionResult, clients: list[int], rows: LineageRows, before: Lineage | None
) -> Iterator[Piece]:
    """One parameter, one block of its rows, one accumulator at a time: no more than a block of the round's clients."""
    updates, shares = fused.updates, fused.shares
    moved: list[int | str] = [*rows.clients, *(kind for kind in rows.kinds if kind != "forgotten")]
    positions = {} if before is None else before.rows.positions
    for name in updates.names:
        dtype, scale = _stored_type(updates.returned.previous[name]), fused.scales[name]
        groups = [WEIGHTED, PLAIN, *(VELOCITY.values() if fusion.decay else ())]
        stored = {} if before is None else {group: before.tensors[f"{group}/{name}"] for group in groups}
        for where in updates.blocks(name):
            at = scale if isinstance(scale, (int, float)) else _part(scale, where)
            block = _Block(fusion, at, rows, name, where, dtype, positions, stored)
            plain, kinds = _terms(fused, name, where)
            weighted = plain * shares.weights.view(-1, *(1,) * (plain.dim() - 1))
            terms = kinds | dict(zip(clients, weighted, strict=True))
            for row in moved:
                yield from block.moved(WEIGHTED, row, terms.get(row))
            if "forgotten" in rows.kinds:
                yield from block.forgotten(moved)
            terms = dict(zip(clients, plain, strict=True))
            for client in rows.clients:
                yield from block.moved(PLAIN, client, terms.get(client))


def _terms(fused: FusionResult, name: str, where: slice) -> tuple[Tensor, dict[int | str, Tensor]]:
    """Some rows of one parameter of what entered the combined update, float64 `[…, rows, *rest]`.

    For each client `M_k o c_k (W_k - V_k)`, and by kind what no client sent.
    """
    updates, shares = fused.updates, fused.shares
    own, stale = updates.own(name, where), updates.stale(name, where)
    wide = (-1, *(1,) * (own.dim() - 1))
    if name in shares.multipliers:
        factor = shares.multipliers[name].rows(where, tuple(updates.returned.previous[name].shape))
        own.mul_(factor)
        if stale is not None:
            stale.mul_(factor)
    kinds: dict[int | str, Tensor] = {}
    if stale is not None:
        kinds["stale"] = (stale * shares.weights.view(wide)).sum(0)
    if name in fused.noise:
        kinds["noise"] = _part(fused.noise[name], where).double()
    return own.mul_(updates.factors.view(wide)), kinds


@dataclass(frozen=True)
class _Block:
    """Some rows (`where`) of one parameter, the server's step size there, and the accumulators of the round before.

    `positions` and `stored` are those: where each row was, and their tensors by group; empty before round 1.
    """

    fusion: Fusion
    scale: float | Tensor
    rows: LineageRows
    name: str
    where: slice
    dtype: torch.dtype
    positions: Mapping[int | str, int]
    stored: Mapping[str, Tensor]

    def old(self, group: str, row: int | str) -> Tensor | None:
        """What a row was; None where there was none."""
        if row not in self.positions:
            return None
        return _part(self.stored[group][self.positions[row]], self.where)

    def moved(self, group: str, row: int | str, term: Tensor | None) -> Iterator[Piece]:
        """`m <- decay m + gain term`, `acc <- lineage_decay acc + scale o m`; `term` None: nothing was added."""
        last = self.old(group, row)
        move = None if term is None else self.fusion.gain * term
        if self.fusion.decay:
            carried = self.old(VELOCITY[group], row)
            if carried is not None:
                carried = self.fusion.decay * carried.double()
                move = carried if move is None else move + carried
            if move is not None:
                yield self._piece(VELOCITY[group], row, move)
        if last is not None and self.rows.decay < 1:
            last = self.rows.decay * last.double()
        if move is not None:
            last = self.scale * move if last is None else last.double() + self.scale * move
        if last is not None:
            yield self._piece(group, row, last)

    def forgotten(self, others: Sequence[int | str]) -> Iterator[Piece]:
        """What the other rows have lost so far, so that the sum of all is kept."""
        total = self.old(WEIGHTED, "forgotten")
        if total is None:  # before the first round: there was nothing to lose
            return
        total = total.double()
        for row in others:
            old = self.old(WEIGHTED, row)
            if old is not None:
                total = total + (1.0 - self.rows.decay) * old.double()
        yield self._piece(WEIGHTED, "forgotten", total)

    def _piece(self, group: str, row: int | str, values: Tensor) -> Piece:
        return Piece(f"{group}/{self.name}", self.rows.positions[row], self.where.start, values.to(self.dtype))


def _stored_type(parameter: Tensor) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)


def _part(tensor: Tensor, where: slice) -> Tensor:
    """Rows of a parameter; one without dimensions is one row."""
    return tensor[None] if tensor.dim() == 0 else tensor[where]
