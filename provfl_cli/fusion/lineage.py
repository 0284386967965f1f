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

Without momentum and decay only the rows of a round's own clients move: it writes these alone, and the others stay in
the files of the rounds that moved them last. So a round costs what its clients cost, however many there were before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..imports import later
from .fuse import Fusion, FusionResult
from .lineage_rows import FORGOTTEN, OWNERS, PLAIN, WEIGHTED, Lineage, LineageRows

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")

KINDS = ("noise", "stale", FORGOTTEN)
VELOCITY = {WEIGHTED: "velocity", PLAIN: "plain_velocity"}
FEW = 0.5  # of as many rows as a round has clients: an earlier file with fewer that count is given up


@dataclass(frozen=True)
class Piece:
    """Some rows of one accumulator: rows `start` onwards of its parameter's first dimension, `values` `[n, *rest]`.

    `row` is the place of the client, or of what no client sent, in the round's own file.
    """

    name: str
    row: int
    start: int
    values: Tensor


@dataclass(frozen=True)
class NextLineage:
    """The accumulators that a round leaves, not computed yet.

    `specs` has type and shape of every tensor of the round's own file; `pieces` gives their content a block at a time,
    and can be read once.
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
    if decay == 1 and not fusion.decay:
        rows = replace(rows, held=_held(rows, clients, number, before))
    written = rows.written_by(number)
    previous = fused.updates.returned.previous
    specs: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for name in fused.updates.names:
        dtype, shape = _stored_type(previous[name]), tuple(previous[name].shape)
        for group, count in ((WEIGHTED, len(written)), (PLAIN, len(written) - len(rows.kinds))):
            specs[f"{group}/{name}"] = (dtype, (count, *shape))
            if fusion.decay:
                specs[f"{VELOCITY[group]}/{name}"] = (dtype, (count, *shape))
    if rows.held:
        specs[OWNERS] = (torch.int64, (len(written) - len(rows.kinds),))
    initial = previous if before is None else before.initial
    return NextLineage(rows, initial, specs, _pieces(fusion, fused, list(clients), rows, written, before))


def _held(rows: LineageRows, clients: Sequence[int], number: int, before: Lineage | None) -> tuple[int, ...]:
    """In which round's file each client's row is: those that move are in the newest, with what is left of old files."""
    if before is None or not before.rows.held:
        return (number,) * len(rows.clients)
    held = dict(zip(before.rows.clients, before.rows.held, strict=True)) | dict.fromkeys(clients, number)
    left = Counter(held.values())
    given_up = {where for where, count in left.items() if count < FEW * len(clients)}
    return tuple(number if held[client] in given_up else held[client] for client in rows.clients)


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
    fusion: Fusion,
    fused: FusionResult,
    clients: list[int],
    rows: LineageRows,
    written: Sequence[int | str],
    before: Lineage | None,
) -> Iterator[Piece]:
    """One parameter, one block of its rows, one accumulator at a time: no more than a block of the round's clients."""
    updates, shares = fused.updates, fused.shares
    places = {row: place for place, row in enumerate(written)}
    theirs = [row for row in written if isinstance(row, int)]
    moved = [row for row in written if row != FORGOTTEN]
    if rows.held:
        for client in theirs:
            yield Piece(OWNERS, places[client], 0, torch.tensor([client]))
    for name in updates.names:
        dtype, scale = _stored_type(updates.returned.previous[name]), fused.scales[name]
        for where in updates.blocks(name):
            at = scale if isinstance(scale, (int, float)) else _part(scale, where)
            block = _Block(fusion, at, rows.decay, places, name, where, dtype, before)
            plain, kinds = _terms(fused, name, where)
            weighted = plain * shares.weights.view(-1, *(1,) * (plain.dim() - 1))
            terms = kinds | dict(zip(clients, weighted, strict=True))
            for row in moved:
                yield from block.moved(WEIGHTED, row, terms.get(row))
            if FORGOTTEN in rows.kinds:
                yield from block.forgotten(moved)
            terms = dict(zip(clients, plain, strict=True))
            for client in theirs:
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

    `kept` is the lineage's decay; `places` says where each row is in the round's own file; `before` is None before
    round 1.
    """

    fusion: Fusion
    scale: float | Tensor
    kept: float
    places: Mapping[int | str, int]
    name: str
    where: slice
    dtype: torch.dtype
    before: Lineage | None

    def old(self, group: str, row: int | str) -> Tensor | None:
        """What a row was; None where there was none."""
        if self.before is None or row not in self.before.rows.positions:
            return None
        return _part(self.before.row(f"{group}/{self.name}", self.before.rows.positions[row]), self.where)

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
        if last is not None and self.kept < 1:
            last = self.kept * last.double()
        if move is not None:
            last = self.scale * move if last is None else last.double() + self.scale * move
        if last is not None:
            yield self._piece(group, row, last)

    def forgotten(self, others: Sequence[int | str]) -> Iterator[Piece]:
        """What the other rows have lost so far, so that the sum of all is kept."""
        total = self.old(WEIGHTED, FORGOTTEN)
        if total is None:  # before the first round: there was nothing to lose
            return
        total = total.double()
        for row in others:
            old = self.old(WEIGHTED, row)
            if old is not None:
                total = total + (1.0 - self.kept) * old.double()
        yield self._piece(WEIGHTED, FORGOTTEN, total)

    def _piece(self, group: str, row: int | str, values: Tensor) -> Piece:
        return Piece(f"{group}/{self.name}", self.places[row], self.where.start, values.to(self.dtype))


def _stored_type(parameter: Tensor) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)


def _part(tensor: Tensor, where: slice) -> Tensor:
    """Rows of a parameter; one without dimensions is one row."""
    return tensor[None] if tensor.dim() == 0 else tensor[where]
