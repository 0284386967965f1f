"""The band in which clients stay, round by round: who leaves it, compared with the others and with its own past.

Plain numbers, one round after the other: what is measured of clients is in `attribution/suspicion.py`. Two distances
are taken of every score, both robust z on the side that is suspicious:

- *federation*: from the other clients of the round, as `attribution/suspects.py` has it;
- *own*: from what the client itself was in its last rounds. Both are counted from the round's median, so that what
  happens to everybody (the model learns, or forgets) is nobody's doing, and the unit is the larger of how much this
  client moves from round to round and how much clients of this federation do.

A client that has always been odd, such as one that holds a single label, is far from the others and near itself; one
whose data were changed is far from itself, though among odd neighbours nobody may see it. Above 1 in units of its
threshold, either distance puts it out. Rounds in which a client was out are no part of its past: a fault that stays
does not become what it is used to.

How often honest clients are out, and how soon faults are seen, is measured in `outputs/paper/watch.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from ..attribution.suspects import FEWEST, NOTHING, Score, robust_z
from ..imports import later

if TYPE_CHECKING:
    import numpy as np
else:
    np = later("numpy")

PAST = 3  # rounds that a client must have been in before it is compared with itself
WINDOW = 8  # rounds at most, the last ones, that are its past
OWN = 10.0  # threshold of the distance from its past, in standard deviations
FAR = 1.5  # times the threshold of a score is that of the distance from the others: here it is asked every round
SETTLED = 3  # the first round in which somebody can be out, and that is a past: models that know little differ a lot
FEDERATION, ITSELF = "the others", "its own rounds before"


@dataclass(frozen=True)
class Reason:
    """The most that puts a client out, or the nearest to it.

    Attributes:
        score: the name of what was measured.
        value: what it is of this client.
        usual: the median of what it is compared with: the others' value, or its own level in its past.
        z: how far away, in robust standard deviations.
        against: what it was compared with, in words.
        degree: `z` in units of its threshold.
    """

    score: str
    value: float
    usual: float
    z: float
    against: str
    degree: float


@dataclass(frozen=True)
class BandRound:
    """The clients of one round, and who of them is out of the band.

    Attributes:
        number: of the round.
        clients: their numbers.
        scores: which were measured.
        values: float64 `[scores, clients]`.
        levels: the same on the scale on which they are compared, from the round's median, `[scores, clients]`.
        federation: robust z among the clients of the round, `[scores, clients]`; NaN where they are too few.
        own: robust z from the client's past, `[scores, clients]`; NaN where that is too short.
        past: the client's median level in its past, `[scores, clients]`; NaN likewise.
        strictness: what all thresholds are multiplied by.
        settled: whether somebody can be out yet.
    """

    number: int
    clients: tuple[int, ...]
    scores: tuple[Score, ...]
    values: np.ndarray
    levels: np.ndarray
    federation: np.ndarray
    own: np.ndarray
    past: np.ndarray
    strictness: float
    settled: bool

    @cached_property
    def both(self) -> np.ndarray:
        """Both distances in units of their thresholds, float64 `[2, scores, clients]`; 0 where there is none."""
        thresholds = np.array([score.threshold for score in self.scores])[:, None]
        distances = np.stack([self.federation / (FAR * thresholds), self.own / OWN]) / self.strictness
        found: np.ndarray = np.nan_to_num(distances, nan=0.0, posinf=1e9, neginf=0.0)
        return found

    @cached_property
    def degrees(self) -> np.ndarray:
        """How far out each client is, float64 `[clients]`: above 1 it is out of the band, 0 where nothing is known."""
        found: np.ndarray = self.both.max(axis=(0, 1), initial=0.0)
        return found

    @cached_property
    def out(self) -> tuple[int, ...]:
        """Numbers of the clients out of the band."""
        far = np.flatnonzero(self.degrees > 1).tolist() if self.settled else []
        return tuple(self.clients[at] for at in far)

    def reason(self, client: int) -> Reason:
        """What puts a client out, or is the nearest to it."""
        at = self.clients.index(client)
        both = self.both[:, :, at]
        which, score = (int(index) for index in np.unravel_index(int(both.argmax()), both.shape))
        compared, middle = self.scores[score], float(np.median(self.values[score]))
        usual = middle
        if which:
            level = float(self.past[score, at])
            usual = middle * float(np.exp(level)) if compared.logarithm else middle + level
        z = float((self.federation, self.own)[which][score, at])
        against = (FEDERATION, ITSELF)[which]
        return Reason(compared.name, float(self.values[score, at]), usual, z, against, float(both[which, score]))


def next_round(
    before: Sequence[BandRound],
    number: int,
    clients: Sequence[int],
    values: Mapping[Score, np.ndarray],
    strictness: float = 1.0,
) -> BandRound:
    """Compare the clients of a round with each other, and with what they were in the rounds before.

    Args:
        before: the rounds so far, in order; rounds, and clients in them, may be missing.
        number: of this round.
        clients: their numbers.
        values: what was measured of each, float64 `[clients]`, by score; the same scores in every round.
        strictness: all thresholds are multiplied by it: above 1 fewer clients are out.
    """
    scores = tuple(values)
    measured = np.stack([np.asarray(row, dtype=np.float64) for row in values.values()])
    levels = np.stack([level(row, score) for row, score in zip(measured, scores, strict=True)])
    federation = np.full_like(measured, np.nan)
    if len(clients) >= FEWEST:
        federation = np.stack([robust_z(row, score) for row, score in zip(measured, scores, strict=True)])
    pasts = {client: _past(before, client) for client in clients}
    common = _spread(list(pasts.values()), len(scores))
    own, past = np.full_like(measured, np.nan), np.full_like(measured, np.nan)
    for at, client in enumerate(clients):
        if len(pasts[client]) >= PAST:
            past[:, at], own[:, at] = _from_past(levels[:, at], pasts[client], common, scores)
    settled = len(before) + 1 >= SETTLED
    return BandRound(number, tuple(clients), scores, measured, levels, federation, own, past, strictness, settled)


def level(values: np.ndarray, score: Score) -> np.ndarray:
    """Values `[clients]` of one round as they are compared: by logarithms where the score says so, from the median."""
    if score.logarithm:
        values = np.log(np.maximum(values, max(NOTHING * float(np.median(values)), np.finfo(float).tiny)))
    centred: np.ndarray = values - np.median(values)
    return centred


def _past(before: Sequence[BandRound], client: int) -> np.ndarray:
    """A client's levels in the last settled rounds in which it was in the band, `[rounds, scores]`."""
    there = (past for past in reversed(before) if client in past.clients)
    within = islice((past for past in there if past.settled and client not in past.out), WINDOW)
    return np.array([past.levels[:, past.clients.index(client)] for past in within])


def _spread(pasts: Sequence[np.ndarray], scores: int) -> np.ndarray:
    """How much clients of this federation move from round to round: the median of their own deviations, `[scores]`."""
    moved = [past.std(axis=0, ddof=1) for past in pasts if len(past) >= PAST]
    if not moved:
        return np.zeros(scores)
    spread: np.ndarray = np.median(moved, axis=0)
    return spread


def _from_past(
    now: np.ndarray, past: np.ndarray, common: np.ndarray, scores: Sequence[Score]
) -> tuple[np.ndarray, np.ndarray]:
    """A client's median level in its past, and how far it is from it now on the suspicious side, both `[scores]`."""
    middle = np.median(past, axis=0)
    itself = past.std(axis=0, ddof=1)  # of few rounds, none of them one in which it was out: there is nothing to resist
    least = np.array([score.least for score in scores])
    z = (now - middle) / np.maximum(np.maximum(itself, common), least)
    sides = {"high": lambda x: x, "low": lambda x: -x, "both": abs}
    return middle, np.array([sides[score.suspicious](x) for score, x in zip(scores, z, strict=True)])
