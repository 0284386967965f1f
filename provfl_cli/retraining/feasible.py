"""Which of the federations planned can be trained, said before any is: how many cannot, why, and whether enough can."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import comb

from ..config.retrain import FEWEST_SUBSETS, Retrain
from ..errors import InputError
from .designs import ALL, HALVES, LEAVE_ONE_OUT, Retraining, Subset

Reasons = Mapping[Retraining, str]
"""Why a retraining cannot be trained, "" where nothing speaks against it; of all that is planned."""

MORE = "more clients (federation.clients), or without that design in retrain.designs"


def grouped(reasons: Iterable[str]) -> str:
    """Reasons in one line, those that differ in numbers alone together, with how many there are of each."""
    kinds = dict[str, list[str]]()
    for reason in reasons:
        kinds.setdefault(re.sub(r"\d+", "0", reason), []).append(reason)
    told = [f"such as: {own[0]}" if len({*own}) > 1 else own[0] for own in kinds.values()]
    if len(told) == 1:
        return told[0]
    return "; ".join(f"{len(own)}: {text}" for own, text in zip(kinds.values(), told, strict=True))


def impossible(reasons: Reasons) -> str:
    """How many sets of clients of each design cannot be trained, and why, in one line; "": all can."""
    sets = {(retraining.design, retraining.clients): reason for retraining, reason in reasons.items()}
    failing = {key: reason for key, reason in sets.items() if reason}
    if not failing:
        return ""
    designs = dict.fromkeys(design for design, _ in failing)
    counts = [
        f"{sum(of == design for of, _ in failing)} of {sum(of == design for of, _ in sets)} {design}"
        for design in designs
    ]
    return f"{', '.join(counts)} cannot be trained: {grouped(failing.values())}"


def fewer_halves(settings: Retrain, clients: int) -> str:
    """What to say where there are fewer different halves of so many clients than asked for; "": there are enough."""
    there = comb(clients, clients // 2)
    if HALVES not in settings.chosen or settings.subsets <= there:
        return ""
    return f"retrain.subsets={settings.subsets}: {clients} clients have {there} different halves, these are trained"


def check_enough(settings: Retrain, clients: Sequence[int], seed: int, reasons: Reasons) -> None:
    """Raise InputError where what can be trained of a design is too little for any figure.

    Without each client, all are needed; of halves, and of those with another seed, `FEWEST_SUBSETS`.

    Args:
        settings: what is trained again.
        clients: of the federation.
        seed: of its training.
        reasons: of all that is planned, but the removal of clients that a trace names.
    """
    if len(clients) < 2:
        raise InputError(f"retrain.designs: {len(clients)} client is left, 2 or more are needed: federation.clients")
    if HALVES in settings.chosen and (there := comb(len(clients), len(clients) // 2)) < FEWEST_SUBSETS:
        raise InputError(
            f"retrain.designs: halves: {len(clients)} clients have {there} different ones, the score needs "
            f"{FEWEST_SUBSETS}: federation.clients=4 or more, or retrain.designs without halves"
        )
    without_each = _trained(reasons, LEAVE_ONE_OUT, seed) | _trained(reasons, ALL, seed)
    each = all(tuple(client for client in clients if client != gone) in without_each for gone in clients)
    for design in settings.chosen:
        own = {retraining: reason for retraining, reason in reasons.items() if retraining.design == design}
        first = {retraining: reason for retraining, reason in own.items() if retraining.seed == seed}
        count = len(_trained(reasons, design, seed))
        needed = {LEAVE_ONE_OUT: len(clients), HALVES: FEWEST_SUBSETS, ALL: 0 if each else FEWEST_SUBSETS}.get(
            design, 1
        )
        if own and count < needed:
            why = grouped(filter(None, first.values()))
            raise InputError(f"retrain.designs: {design}: {_so_many(count, first, needed)} ({why}): {MORE}")
        second = {retraining: reason for retraining, reason in own.items() if retraining.seed != seed}
        count = sum(not reason for reason in second.values())
        if second and count < FEWEST_SUBSETS:
            why = grouped(filter(None, second.values()))
            raise InputError(
                f"retrain.again={settings.again}: {_so_many(count, second, FEWEST_SUBSETS)}{f' ({why})' if why else ''}"
                ": more of them, or retrain.again=0"
            )


def _so_many(count: int, own: Reasons, needed: int) -> str:
    of_all = f"{count or 'none'} of {len(own)} can be trained"
    return of_all if needed == 1 else f"{of_all}, its figures need {needed}"


def _trained(reasons: Reasons, design: str, seed: int) -> set[Subset]:
    """The sets of clients of a design that can be trained."""
    return {
        retraining.clients
        for retraining, reason in reasons.items()
        if retraining.design == design and retraining.seed == seed and not reason
    }


def counted(plan: Sequence[Retraining], seed: int) -> str:
    """How many retrainings there are of each design: `3 halves, 3 of them again with another seed, 1 clean_twin`."""
    said = []
    for design in dict.fromkeys(retraining.design for retraining in plan):
        seeds = [retraining.seed for retraining in plan if retraining.design == design]
        said.append(f"{seeds.count(seed)} {design}")
        if again := len(seeds) - seeds.count(seed):
            said.append(f"{again} of them again with another seed")
    return ", ".join(said)
