"""Fuse a round: each client's share of the result is stated first, and the result is computed from that statement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

from ..coverage import printable
from ..errors import RunError
from ..imports import later
from .adapters import adapter_pairs, first_factor, second_factor
from .average import example_shares, weighted_average
from .client_state import ClientState
from .decomposition import Decomposition, Multiplier
from .federation import Federation
from .updates import ReturnedModels, Updates, unclipped

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")


Scale = tuple["float | Tensor", "dict[str, Tensor]"]
Noise = Callable[[str, "Tensor"], "Tensor | None"]
"""Noise on the combined update of a parameter, given its name and that update; None for none."""


@dataclass(frozen=True)
class Shares:
    """How clients' updates are combined: `delta = sum_k q_k M_k o E_k`. `weights` are the `q_k`, float64 `[clients]`;
    `multipliers` the `M_k` by parameter name, 1 for parameters that are not named."""

    weights: Tensor
    multipliers: Mapping[str, Multiplier] = field(default_factory=dict)


@dataclass(frozen=True)
class FusionResult:
    """What fusion hands on.

    Attributes:
        weights: the new global tensors, buffers included; where products of adapters are summed, the factors of those
            of all clients side by side (`adapters.py`).
        state: the server's next state.
        decomposition: what `weights` are made of.
        updates, shares, scales, noise: of what `decomposition` was made: the updates as fusion saw them, how they were
            combined, the server's step size and the noise on the combined update, both by parameter name.
    """

    weights: dict[str, Tensor]
    state: dict[str, Tensor]
    decomposition: Decomposition
    updates: Updates
    shares: Shares
    scales: dict[str, float | Tensor]
    noise: dict[str, Tensor]


class Fusion(Protocol):
    """What a fusion does, beside being a frozen dataclass of its settings; see `fedavg.py` for the smallest one.

    `plain.PlainServer` has defaults of all but `shares`. Nothing outside `fusion/` knows any fusion by its class: what
    one needs of its clients it states here.

    The server keeps `m <- decay * m + gain * delta` and moves by `scale o m`: plain fusions have decay 0, gain 1,
    scale 1, so that the model moves by `delta`, the combined update.
    """

    @property
    def decay(self) -> float:
        """How much of the server's momentum stays; 0 for none."""

    @property
    def gain(self) -> float:
        """What of the combined update enters it."""

    @property
    def needs_steps(self) -> bool:
        """Whether `shares` depend on how many steps each client made: then a round is fused again only with these."""

    @property
    def averages(self) -> bool:
        """Whether the combined update is a mean of the clients' updates with weights of their own: what a client sent
        does not decide how much others count. Only such a fusion can serve a buffer of updates."""

    @property
    def sums_products(self) -> bool:
        """Whether the products of clients' adapters are combined, not their factors: then the result goes into the
        base of the adapted layers, and everybody starts the next round from a fresh adapter."""

    @property
    def client_state(self) -> ClientState | None:
        """What clients keep from round to round beside their model; None for nothing."""

    def fixed(self, clients: int) -> Self:
        """The same, with what it makes of the number of clients in a round fixed as for so many.

        A round of theirs is then fused again with fewer of them.
        """

    def check(self, federation: Federation) -> None:
        """Raise InputError where the federation's settings do not allow this fusion."""

    def correct_gradients(self, gradients: list[Tensor], weights: list[Tensor], start: list[Tensor]) -> None:
        """Change a client's `gradients` in place before its optimizer's step; `start` is the model it received."""

    def shares(self, updates: Updates) -> Shares:
        """How this round's updates are combined."""

    def scale(
        self, delta: Tensor, state: Mapping[str, Tensor], number: int
    ) -> tuple[float | Tensor, dict[str, Tensor]]:
        """The server's step size for one parameter, a number or a tensor of its shape, and that parameter's next state.

        `delta` is the combined update, float64; `state` what this returned in the round before, empty at first;
        `number` counts the rounds that the server has fused, from 1.
        """


def fuse(
    fusion: Fusion,
    returned: ReturnedModels,
    state: Mapping[str, Tensor],
    updates: Updates | None = None,
    noise: Noise | None = None,
) -> FusionResult:
    """Fuse one round.

    Args:
        fusion: how.
        returned: what the clients returned.
        state: the server's state after the last round, empty before the first.
        updates: the same as the fusion shall see it, clipped for instance; None: as it came.
        noise: what is added to each combined update; None: nothing.

    Returns:
        The new global tensors; buffers are averaged by examples whatever the fusion (design section 2.3).

    Raises:
        RunError: where a client returned what is no finite number, also if the fusion would not have used it, and where
            fewer clients returned than the fusion needs.
    """
    seen = (updates or unclipped(returned)).weighted()
    rate = 1.0 if returned.buffered is None else returned.buffered.rate
    shares = fusion.shares(seen)
    number = int(state["round"]) + 1 if "round" in state else 1
    weights: dict[str, Tensor] = {}
    next_state: dict[str, Tensor] = {}
    multipliers: dict[str, Multiplier] = {}
    unsent: dict[str, dict[str, Tensor]] = {}
    scales: dict[str, float | Tensor] = {}
    noises: dict[str, Tensor] = {}

    def note(kind: str, name: str, part: Tensor) -> None:
        unsent.setdefault(kind, {})[name] = part.to(returned.previous[name].dtype).view(returned.previous[name].shape)

    pairs = adapter_pairs(returned.parameters) if fusion.sums_products else {}
    firsts = frozenset(pairs.values())
    for name in returned.previous:
        before = returned.previous[name]
        if name in returned.buffers:
            weights[name] = weighted_average(returned.clients[name], example_shares(returned.examples))
            continue
        if name in pairs or name in firsts:
            sent = returned.clients[name]
            if not sent.isfinite().all():
                raise RunError(_not_finite(returned))
            if name in pairs:
                weights[name] = second_factor(sent, shares.weights * seen.factors)
            else:
                weights[name] = first_factor(sent)
            scalars = seen.factors if name in pairs else torch.zeros_like(seen.factors)  # of A nobody moved anything
            if not (multiplier := Multiplier(scalars)).is_one():
                multipliers[name] = multiplier
            continue
        delta, stale = combined(seen, shares, name)
        if not delta.isfinite().all():  # a factor of 0 does not hide it: 0 times infinity is no number either
            raise RunError(_not_finite(returned))
        added = noise(name, delta) if noise is not None else None
        if added is not None:
            delta = delta + added
        prefix = f"/{name}"
        own_state = {key.removesuffix(prefix): value for key, value in state.items() if key.endswith(prefix)}
        momentum = own_state.pop("momentum", None)
        scale, kept = fusion.scale(delta, own_state, number)
        scale = rate * scale
        scales[name] = scale
        move = fusion.gain * delta
        if fusion.decay and momentum is not None:
            carried = fusion.decay * momentum.double()
            move = move + carried
            note("momentum", name, scale * carried)
        if fusion.decay:
            kept = {**kept, "momentum": move.to(torch.float64)}
        weights[name] = (before.double() + scale * move).to(before.dtype)
        next_state |= {f"{key}{prefix}": value for key, value in kept.items()}
        if added is not None:
            noises[name] = added
            note("noise", name, scale * fusion.gain * added)
        if stale is not None:
            note("stale", name, scale * fusion.gain * stale)
        tensor = scale if isinstance(scale, torch.Tensor) else None
        multiplier = shares.multipliers.get(name, Multiplier(torch.ones(seen.count, dtype=torch.float64)))
        multiplier = multiplier.scaled(
            seen.factors * fusion.gain * (1.0 if tensor is not None else scale),
            None if tensor is None else tensor.to(before.dtype),
        )
        if not multiplier.is_one():
            multipliers[name] = multiplier
    if next_state:
        next_state["round"] = torch.tensor(number)
    decomposition = Decomposition(shares.weights, multipliers, unsent, products=bool(pairs))
    return FusionResult(weights, next_state, decomposition, seen, shares, scales, noises)


def _not_finite(returned: ReturnedModels) -> str:
    """Who is to blame for a combined update that is no finite number."""
    for name in returned.parameters:
        if not returned.previous[name].isfinite().all():
            return f"the global model before the round holds numbers that are not finite (in {printable(name)})"
    bad = [
        str(client)
        for client, _ in enumerate(returned.examples)
        if not all(returned.clients[name][client].isfinite().all() for name in returned.parameters)
    ]
    who = ", ".join(bad) or "all together"
    return f"of the clients of this round, counted from 0, {who} returned numbers that are not finite"


def combined(updates: Updates, shares: Shares, name: str) -> tuple[Tensor, Tensor | None]:
    """`sum_k q_k M_k o E_k` for one parameter, and the part of it that late clients' old bases make (None: no part).

    float64, in the shape of the parameter.
    """
    shape = tuple(updates.returned.previous[name].shape)
    total = torch.empty(shape or (1,), dtype=torch.float64)
    stale = torch.empty_like(total) if updates.has_stale else None
    multiplier = shares.multipliers.get(name)
    for where in updates.blocks(name):
        factor = shares.weights.view(-1, *(1,) * total.dim())
        if multiplier is not None:
            factor = factor * multiplier.rows(where, shape)
        total[where] = (updates.rows(name, where) * factor).sum(0)
        if stale is not None:
            stale[where] = (updates.stale(name, where) * factor).sum(0)  # type: ignore[operator]
    return total.view(shape), None if stale is None else stale.view(shape)
