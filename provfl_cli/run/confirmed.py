"""Whether leaving clients out bears a ranking out: said of the clients that matter, not of those that hardly do.

What differs by less than `NEGLIGIBLE` of the largest is the same: which of two clients that hardly push comes first
depends on rounding, and on what a trace, which is of first order, leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..results.answer import Conclusion, Effect

NEGLIGIBLE = 0.05  # of the largest contribution, or cost
NOISE = 1e-3  # of a log-probability: less than a thousandth of the probability
NAMED = 3  # further clients that are named


def apart(values: np.ndarray, least: float = 0.0) -> Callable[[int, int], bool]:
    """Whether two of some values differ by more than the noise: `NEGLIGIBLE` of the largest, and at least `least`."""
    largest = float(np.abs(values).max(initial=0.0))
    return lambda a, b: bool(abs(values[a] - values[b]) > max(NEGLIGIBLE * largest, least))


def matter(values: np.ndarray) -> np.ndarray:
    """Which of some values are not negligible beside the largest, bool."""
    sizes = np.abs(values)
    found: np.ndarray = sizes > NEGLIGIBLE * sizes.max(initial=0.0)
    return found


def concluded(
    effects: Sequence[Effect], predicted: str | None, explained: str, before: float, shown: Callable[[float], str]
) -> Conclusion | None:
    """What leaving each of the ranked clients out says of the first of them; None where nothing was measured.

    Args:
        effects: of one way of leaving out, in the order of the ranking.
        predicted: the label predicted with all clients; None: the model has no classes.
        explained: the label, or value, that is explained.
        before: its probability, or value, with all clients.
        shown: how such a number is written.
    """
    if not effects:
        return None
    what = explained if predicted is None else f"the probability of {explained}"
    first, kind = effects[0], next(iter(effects[0].losses))

    def leaving(name: str) -> str:
        client = f"client {name}" if name.isdecimal() else name
        if kind == "withhold":
            return f"with {client} withheld"
        return f"trained again without {client}" if kind == "retrain" else f"without {client}"

    losses = np.array([effect.losses[kind] for effect in effects])
    measured = losses[np.isfinite(losses)]
    if not len(measured) or not np.isfinite(losses[0]):
        return Conclusion(None, f"not decided: there is no model without {first.client}")
    largest = float(np.abs(measured).max())
    least = NOISE if predicted is not None else 0.0
    others = [effect for effect in effects[1:] if _other(effect, kind, predicted)]
    if _other(first, kind, predicted):
        also = ", ".join(effect.client for effect in others[:NAMED])
        more = f"; so it does without {also}" if also else ""
        now = _change(what, before, first.probabilities[kind], shown)
        return Conclusion(True, f"confirmed: {leaving(first.client)} it says {first.predictions[kind]} ({now}){more}")
    if largest <= least:
        return Conclusion(None, f"not decided: {leaving('any one of them')}, {what} stays at {shown(before)}")
    strongest = effects[int(np.nanargmax(losses))]
    own = f"{leaving(first.client)}, {_change(what, before, first.probabilities[kind], shown)}"
    moved = losses[0] > max(NEGLIGIBLE * largest, least)
    if moved and not others and losses[0] >= losses[np.isfinite(losses)].max() - NEGLIGIBLE * largest:
        most = ", more than without any other" if len(measured) > 1 else ""
        return Conclusion(True, f"confirmed: {own}{most}")
    then = _change(what, before, strongest.probabilities[kind], shown)
    if others:
        strongest = max(others, key=lambda effect: effect.losses[kind])
        then = f"it says {strongest.predictions[kind]}"
    said = "confirmed in part" if moved else "not confirmed"
    beside = "" if strongest is first else f"; {leaving(strongest.client)}, {then}"
    return Conclusion(False, f"{said}: {own}{beside}")


def _other(effect: Effect, kind: str, predicted: str | None) -> bool:
    """Whether another label is predicted without the client."""
    return predicted is not None and effect.predictions.get(kind, predicted) != predicted


def _change(name: str, before: float, now: float, shown: Callable[[float], str]) -> str:
    was, is_now = shown(before), shown(now)
    return f"{name} stays at {was}" if was == is_now else f"{name} goes from {was} to {is_now}"
