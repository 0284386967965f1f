"""What of each client a new model is made of: stated from what is expected of the strategy, compared with its result.

Where the expected statement does not give the result, the strategy may still have combined what the clients sent: it
left some out unseen, scaled their average, or weighed them by numbers of its own. Which, is measured, and holds only if
it gives the whole result within rounding. What is left after that is refused, or becomes a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import InputError
from ..fusion.average import example_shares
from ..fusion.buffered import Buffered
from ..fusion.decomposition import DIFFERENCE, ROUNDING, Decomposition, Multiplier
from ..fusion.fuse import Fusion, FusionResult, Shares, fuse
from ..fusion.updates import ReturnedModels, Updates, norms, unclipped
from ..recording.comparison import explained, rounding_errors
from ..recording.rounds import NotRecorded
from .choices import ChosenClients, MeasuredShares

SAMPLE = 1 << 23  # numbers of all clients together by which shares are measured
COORDINATES = 1 << 16  # and of one client


@dataclass(frozen=True)
class Server:
    """What was seen of the server in one round.

    Attributes:
        kind: what its strategy is called.
        fusion: how it is expected to fuse.
        declared: whether the user declared by which metric it averages.
        clip_norm: to which it clips updates; None: it does not.
        state: its own state before the round, by our names; empty for most.
        unnoised: its new model before it added noise; None where it adds none.
        row: whether what is not explained becomes a row of its own, and is not refused.
    """

    kind: str
    fusion: Fusion
    declared: bool = False
    clip_norm: float | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    unnoised: Mapping[str, Tensor] | None = None
    row: bool = False


@dataclass(frozen=True)
class Statement:
    """What a new model is made of.

    Attributes:
        decomposition: of the clients in `slots`.
        state: the server's next state.
        slots: positions of the clients that it is made of, where some were left out unseen; None: all.
        difference: how far the result is from what the clients explain, relative to what the round moved; 0: it is not.
    """

    decomposition: Decomposition
    state: dict[str, Tensor]
    slots: tuple[int, ...] | None = None
    difference: float = 0.0


@dataclass(frozen=True)
class _Attempt:
    """A decomposition, what it was made of, and by how many times the rounding error (`excess`, most in `where`) it
    misses the result; `exact`: what it gives, float64."""

    parts: Decomposition
    fused: FusionResult
    exact: dict[str, Tensor]
    excess: float
    where: str


def state_round(
    server: Server, returned: ReturnedModels, result: Mapping[str, Tensor], parameters: Sequence[str]
) -> Statement:
    """What the new model is made of, and the server's next state.

    Args:
        server: what was seen of it.
        returned: what the clients returned, every array counted as a parameter: so Flower does. Its examples are the
            weights of the replies.
        result: the arrays that the strategy made.
        parameters: names of those that are parameters; the statement is about these.

    Raises:
        NotRecorded: the statement does not give the result, by more than rounding.
    """
    try:
        attempt = _attempt(server, returned, result, parameters)
    except InputError as error:
        raise NotRecorded(f"{server.kind}: {error}") from None
    if attempt.excess <= 1:
        return Statement(_with_rounding(attempt, result), attempt.fused.state)
    if server.clip_norm is None and server.unnoised is None:
        for sent in (returned, *_as_updates(returned)):
            for fusion, slots in _alternatives(sent, result, parameters, server.declared):
                other = _attempt(replace(server, fusion=fusion, state={}), sent, result, parameters)
                if other.excess <= 1:
                    return Statement(_narrowed(_with_rounding(other, result), slots), {}, slots)
    if server.row:
        return _with_difference(attempt, returned, result)
    remedy = (
        "it is not the average by the declared weight key"
        if server.declared
        else "it does more than the strategy it derives from; an average by a metric is declared with weight_key"
    )
    raise NotRecorded(
        f"what {server.kind} made of the clients differs from what was expected by {attempt.excess:,.0f} times the "
        f"rounding error (most in {attempt.where}): {remedy}; mismatch='row' records what is not explained as a row "
        "of its own"
    )


def _attempt(
    server: Server, returned: ReturnedModels, result: Mapping[str, Tensor], parameters: Sequence[str]
) -> _Attempt:
    """`W_prev + U + sum_k A_k o (W_k - V_k)` as the fusion states it, beside the model that the strategy made."""
    updates = unclipped(returned)
    if server.clip_norm is not None:
        updates = Updates(returned, (server.clip_norm / norms(updates)).clamp(max=1.0))
    fused = fuse(server.fusion, returned, server.state, updates)
    parts = _of_parameters(fused, server.fusion, returned, parameters)
    if server.unnoised is not None:
        noise = {name: result[name].double() - server.unnoised[name].double() for name in parameters}
        parts = replace(parts, unsent={**parts.unsent, "noise": noise})
    plain, shares = unclipped(returned), Shares(parts.example_weights, parts.multipliers)
    worst, where, exact = 0.0, "", {}
    for name in parameters:
        exact[name] = explained(plain, shares, parts, name)
        dtype, step = _coarsest(name, server, returned, result), fused.scales[name] * server.fusion.gain
        excess = rounding_errors(plain, name, exact[name], result[name], dtype, step)
        if not excess <= worst:
            worst, where = excess, name
    return _Attempt(parts, fused, exact, worst, where)


def _of_parameters(
    fused: FusionResult, fusion: Fusion, returned: ReturnedModels, parameters: Sequence[str]
) -> Decomposition:
    """The decomposition of the parameters alone. What has no dimensions is never clipped by Flower."""
    multipliers = {name: entry for name, entry in fused.decomposition.multipliers.items() if name in parameters}
    for name in parameters:
        if returned.previous[name].dim() == 0 and bool((fused.updates.factors != 1).any()):
            ones = Multiplier(torch.ones(fused.updates.count, dtype=torch.float64))
            scale = torch.as_tensor(fused.scales[name], dtype=torch.float64)
            multipliers[name] = fused.shares.multipliers.get(name, ones).scaled(scale * fusion.gain)
    unsent = {
        kind: {name: part for name, part in parts.items() if name in parameters}
        for kind, parts in fused.decomposition.unsent.items()
    }
    return Decomposition(fused.decomposition.example_weights, multipliers, unsent)


def _coarsest(name: str, server: Server, returned: ReturnedModels, result: Mapping[str, Tensor]) -> torch.dtype:
    """The type of least precision among what a parameter is computed from, and what it came out in."""
    state = [value.dtype for key, value in server.state.items() if key.endswith(f"/{name}")]
    types = [returned.clients[name].dtype, returned.previous[name].dtype, result[name].dtype, *state]
    return max((dtype for dtype in types if dtype.is_floating_point), key=lambda dtype: torch.finfo(dtype).eps)


def _with_rounding(attempt: _Attempt, result: Mapping[str, Tensor]) -> Decomposition:
    """With a row for what a strategy lost that computed in half precision and returned its model in a finer type."""
    lost = {}
    for name, exact in attempt.exact.items():
        dtype = result[name].dtype
        apart = exact - result[name].double()
        if dtype.itemsize >= 4 and apart.numel() and bool((apart.abs() > 1e-5 * exact.abs().amax()).any()):
            lost[name] = (-apart).to(torch.float32)
    return replace(attempt.parts, unsent={**attempt.parts.unsent, ROUNDING: lost}) if lost else attempt.parts


def _with_difference(attempt: _Attempt, returned: ReturnedModels, result: Mapping[str, Tensor]) -> Statement:
    """The expected statement, and a row for what it does not explain."""
    difference, apart, moved = {}, 0.0, 0.0
    for name, exact in attempt.exact.items():
        whole = result[name].double()
        difference[name] = (whole - exact).to(torch.promote_types(result[name].dtype, torch.float32))
        if exact.numel():
            apart = max(apart, float((whole - exact).abs().max()))
            moved = max(moved, float((whole - returned.previous[name].double()).abs().max()))
    parts = replace(attempt.parts, unsent={**attempt.parts.unsent, DIFFERENCE: difference})
    return Statement(parts, attempt.fused.state, difference=apart / moved if moved else float("inf"))


def _as_updates(returned: ReturnedModels) -> tuple[ReturnedModels, ...]:
    """The same where clients started from models of their own, as a server takes it that adds their updates (FedBuff);
    what it makes of their staleness is in the shares that are measured."""
    if not returned.bases:
        return ()
    count = len(returned.examples)
    return (replace(returned, buffered=Buffered((0,) * count, (1.0,) * count)),)


def _alternatives(
    returned: ReturnedModels, result: Mapping[str, Tensor], parameters: Sequence[str], declared: bool
) -> Iterator[tuple[Fusion, tuple[int, ...] | None]]:
    """Other combinations of what the clients sent that may have given the result, and of which clients they are."""
    measured = _measured(returned, result, parameters)
    if measured is None:
        return
    counts = torch.tensor(list(returned.examples), dtype=torch.float64)
    if bool((counts >= 0).all()) and float(counts.sum()) > 0:
        shares = example_shares(returned.examples)
        ratio = torch.where(shares > 0, measured / shares.clamp_min(1e-300), torch.zeros_like(shares))
        usual = ratio[ratio > ratio.max() / 2].median() if bool((ratio > 0).any()) else torch.tensor(0.0)
        taken = (ratio > usual / 2) & (shares > 0)
        if bool(taken.any()):
            slots = None if bool(taken.all()) else tuple(torch.nonzero(taken).flatten().tolist())
            step = float(measured[taken].sum())
            chosen = tuple(taken.tolist())
            if abs(step - 1) < 0.02:
                yield ChosenClients(taken=chosen), slots
            yield ChosenClients(taken=chosen, step=step), slots
    if not declared:
        yield MeasuredShares(coefficients=tuple(measured.tolist())), None


def _measured(returned: ReturnedModels, result: Mapping[str, Tensor], parameters: Sequence[str]) -> Tensor | None:
    """`a_k` for which `sum_k a_k (W_k - W_prev)` comes nearest to what the server made of the model, by least squares
    over evenly spaced coordinates of all parameters: float64 `[clients]`. None where nobody moved it. Of a buffer of
    updates it is `W_k - V_k`."""
    clients = len(returned.examples)
    wanted = max(4 * clients, min(COORDINATES, SAMPLE // clients))
    total = sum(returned.previous[name].numel() for name in parameters)
    rows, moved = [], []
    for name in parameters:
        before = returned.previous[name].double().flatten()
        count = min(before.numel(), -(-before.numel() * wanted // max(total, 1)))
        places = torch.linspace(0, before.numel() - 1, count, dtype=torch.float64).long()
        before = before[places]
        moves = returned.clients[name].reshape(clients, -1)[:, places].double() - before
        for slot, base in returned.bases.items() if returned.buffered is not None else ():
            moves[slot] += before - base[name].double().flatten()[places]
        rows.append(moves)
        moved.append(result[name].flatten()[places].double() - before)
    sent, made = torch.cat(rows, 1), torch.cat(moved)
    if not bool(made.any()) or not bool(sent.any()):
        return None
    solved: Tensor = torch.linalg.lstsq(sent.T, made[:, None], driver="gelsd").solution
    return solved[:, 0]


def _narrowed(parts: Decomposition, slots: Sequence[int] | None) -> Decomposition:
    """The decomposition of those clients alone; the multipliers of all others are 0."""
    if slots is None:
        return parts
    kept = torch.tensor(slots)
    multipliers = {
        name: multiplier
        for name, entry in parts.multipliers.items()
        if not (multiplier := replace(entry, scalars=entry.scalars[kept])).is_one()
    }
    return Decomposition(parts.example_weights[kept], multipliers, parts.unsent)
