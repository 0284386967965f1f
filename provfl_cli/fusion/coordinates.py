"""Choice among clients for each coordinate by itself; clients with equal values at the border share what is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..imports import later
from .decomposition import Multiplier, pack
from .updates import Updates

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")

ROUNDING = 1e-9  # of sums of masses, which are fractions of small numbers

Choice = list[tuple["Tensor", "Tensor"]]
"""Terms: which clients a term takes, bool `[clients, rows, *rest]`, and what each of those counts, `[rows, *rest]`."""


def middle(updates: Updates, cut: int) -> dict[str, Multiplier]:
    """Without the `cut` lowest and `cut` highest values of each coordinate: what each client's value counts, at most 1.

    Clients tied at a border share equally what of their value is kept, so the counts of a coordinate add up to
    `clients - 2 cut`.
    """

    def choose(rows: Tensor) -> Choice:
        kept = rows.sort(0).values[cut : len(rows) - cut]
        low, high = kept[0], kept[-1]
        at_low, at_high = rows == low, (rows == high) & (low < high)
        share_low = (kept == low).sum(0) / at_low.sum(0)
        share_high = torch.where(low < high, (kept == high).sum(0) / at_high.sum(0), 0.0)
        whole = (rows > low) & (rows < high) | at_low & (share_low == 1) | at_high & (share_high == 1)
        return [
            (whole, torch.ones_like(low)),
            (at_low & (share_low < 1), share_low),
            (at_high & (share_high < 1), share_high),
        ]

    return _multipliers(updates, choose, None) if cut else {}


def nearest_to_median(updates: Updates, masses: Tensor, keep: int) -> dict[str, Multiplier]:
    """The `keep` values nearest to the median of each coordinate: what each client's value counts, at most 1.

    `masses`, float64 `[clients]`, say how often each client's value is there: 1, 0, or the fraction that equal clients
    share. Where their number is even the median is the mean of the middle two. Clients equally far from it at the
    border share equally what is left. The counts of a coordinate add up to `keep`.
    """

    def choose(rows: Tensor) -> Choice:
        there = masses.view(-1, *(1,) * (rows.dim() - 1)) > 0
        far = (rows - _median(rows[masses > 0], masses[masses > 0])).abs().masked_fill(~there, float("inf"))
        ordered, order = far.sort(0)
        before = (masses[order].cumsum(0) < keep - ROUNDING).sum(0, keepdim=True)
        border = ordered.gather(0, before)[0]
        inside, at = far < border, far == border
        left = keep - _mass(inside, masses)
        share = left / _mass(at, masses)
        whole = share > 1 - ROUNDING
        return [(inside | at & whole, torch.ones_like(border)), (at & ~whole, share)]

    return _multipliers(updates, choose, masses)


def _median(rows: Tensor, masses: Tensor) -> Tensor:
    """The median along the first dimension of values that are there `masses` times."""
    ordered, order = rows.sort(0)
    reached = masses[order].cumsum(0)
    half = masses.sum() / 2
    lower = (reached < half - ROUNDING).sum(0, keepdim=True)
    upper = (reached <= half + ROUNDING).sum(0, keepdim=True).clamp(max=len(rows) - 1)
    return ((ordered.gather(0, lower) + ordered.gather(0, upper)) / 2)[0]


def _mass(chosen: Tensor, masses: Tensor) -> Tensor:
    return (chosen * masses.view(-1, *(1,) * (chosen.dim() - 1))).sum(0)


def _multipliers(updates: Updates, choose: Callable[[Tensor], Choice], scalars: Tensor | None) -> dict[str, Multiplier]:
    """A multiplier for every parameter from what `choose` says of each of its blocks; terms that take nobody go."""
    factors = torch.ones(updates.count, dtype=torch.float64) if scalars is None else scalars
    made = {}
    for name in updates.names:
        before = updates.returned.previous[name]
        bits, values = [], []
        for where in updates.blocks(name):
            terms = choose(updates.rows(name, where))
            bits.append(torch.stack([pack(mask.reshape(*mask.shape[:2], -1)) for mask, _ in terms]))
            values.append(torch.stack([value.to(before.dtype) for _, value in terms]))
        all_bits, all_values = torch.cat(bits, 2), torch.cat(values, 1)
        used = all_bits.flatten(1).any(1).bool()
        made[name] = Multiplier(
            factors, bits=all_bits[used], values=all_values[used].view(int(used.sum()), *before.shape)
        )
    return made
