"""Who stands out, or nobody: what was measured of clients, judged against the federation's own spread.

Each score is compared among the clients by robust z (`attribution/suspects.py`), and clients above a score's threshold
stand out. Thresholds were chosen on federations of other seeds than those that `outputs/paper/diagnosis.md` reports:
above every z of a client of a clean one there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..attribution.suspects import FEWEST, Score, robust_z


@dataclass(frozen=True)
class Charge:
    """A score that may make a client stand out, in words.

    Attributes:
        score: its name, side, threshold and least spread.
        words: what is said of a client above the threshold; `{}` stands for what was asked about.
    """

    score: Score
    words: str


CHARGES: Mapping[str, Charge] = {
    charge.score.name: charge
    for charge in (
        Charge(Score("entropy", "high", 7.0, 0.12), "its own model is unsure of what it predicts"),
        Charge(Score("margin", "high", 10.0, 0.1), "its update alone outweighs the others'"),
        Charge(Score("against", "high", 10.0, 0.1), "its update works against right answers"),
        Charge(Score("norm", "both", 8.0, 0.15, logarithm=True), "its update is far from as long as the others'"),
        Charge(Score("direction", "low", 10.0, 0.03), "its update points away from the others'"),
        Charge(Score("narrow", "low", 12.0, 0.1), "its own model gives few different answers"),
        Charge(Score("loss", "high", 8.0, 0.1, logarithm=True), "its own model is wrong far more than the others'"),
        Charge(Score("swap", "high", 6.0, 0.03), "its own model takes two labels for each other"),
        Charge(Score("push", "high", 6.0, 0.1), "pushes {} to where they are"),
        Charge(Score("lineage_push", "high", 6.0, 0.1), "pushes {} to where they are, over all rounds"),
        Charge(Score("top", "high", 7.5, 0.1), "behind most of {}"),
        Charge(Score("lineage_top", "high", 7.5, 0.1), "behind most of {}, over all rounds"),
        Charge(Score("contrary", "high", 5.0, 1.0), "its update points away from the others', and to few answers"),
        Charge(
            Score("blurred", "high", 4.75, 1.0), "its own model is unsure, and its update works against right answers"
        ),
    )
}
NARROW = 2.0  # times the z of `narrow` is as much as that of `direction`
BLURRED = ("entropy", "against", "swap")
TOGETHER = 1.5  # times the mean z of these
CALIBRATED = 10  # clients in the federations that thresholds were chosen on
EARLIER = 3.0  # times its threshold a score has to be in an earlier round: there are many, and attacks upset others
FIRST = 3  # round whose scores say something: before, models know little


@dataclass(frozen=True)
class Measured:
    """A score of the clients of a round.

    Attributes:
        score: its name, one of `CHARGES`.
        round: of which round.
        clients: their numbers.
        values: float64 `[clients]`.
        usual: what is to be expected of each; a client stands out only where it does in `values` and in what these are
            above; None: nothing.
    """

    score: str
    round: int
    clients: tuple[int, ...]
    values: np.ndarray
    usual: np.ndarray | None = None


@dataclass(frozen=True)
class Judged:
    """A score with each client's robust z on the suspicious side, NaN where there are too few clients to compare."""

    measured: Measured
    z: np.ndarray
    threshold: float

    @property
    def degrees(self) -> dict[int, float]:
        """By client, z in units of the threshold: above 1 it stands out."""
        return dict(zip(self.measured.clients, (self.z / self.threshold).tolist(), strict=True))


def judged(measured: Sequence[Measured]) -> list[Judged]:
    """Compare the clients of one round, score by score; two that are made of others are added where these are there.

    Scores that are not among `CHARGES` are passed over. Fewer than `CALIBRATED` clients spread less evenly: thresholds
    are raised as their number falls.

    contrary: `direction` and `narrow` both: the lesser of the z of the one and twice that of the other. Clients with
        labels of their own are often away from the others, and who holds few labels is narrow; both is rare.
    blurred: the z of `entropy`, but no more than `TOGETHER` times the mean of it, `against` and `swap`: noise in labels
        raises all three.
    """
    found = [
        Judged(each, _z(each, CHARGES[each.score].score), _threshold(each.score, len(each.clients)))
        for each in measured
        if each.score in CHARGES
    ]
    by_name = {each.measured.score: each for each in found}
    if {"direction", "narrow"} <= set(by_name):
        away, narrow = by_name["direction"], by_name["narrow"]
        found.append(_joint("contrary", away, np.minimum(away.z, NARROW * narrow.z)))
    if set(BLURRED) <= set(by_name):
        parts = [by_name[name] for name in BLURRED]
        mean = np.mean([part.z for part in parts], axis=0)
        found.append(_joint("blurred", parts[0], np.minimum(parts[0].z, TOGETHER * mean)))
    return found


def _joint(name: str, of: Judged, z: np.ndarray) -> Judged:
    return Judged(replace(of.measured, score=name, values=z), z, _threshold(name, len(z)))


def _threshold(score: str, clients: int) -> float:
    return CHARGES[score].score.threshold * max(1.0, CALIBRATED / max(clients, 1))


def _z(measured: Measured, score: Score) -> np.ndarray:
    if len(measured.clients) < FEWEST:
        return np.full(len(measured.clients), np.nan)
    z = robust_z(measured.values, score)
    if measured.usual is not None and np.isfinite(measured.usual).all():
        z = np.minimum(z, robust_z(measured.values - measured.usual, score))
    return z


@dataclass(frozen=True)
class StandsOut:
    """A client that stands out: by how much, in which scores (the strongest first), since which round."""

    client: int
    z: float
    degree: float
    charges: tuple[str, ...]
    since: int


def standing_out(rounds: Mapping[int, Sequence[Judged]]) -> tuple[StandsOut, ...]:
    """The set of clients that stand out, the most suspect first; () where nobody does.

    Those above a threshold in the last of the rounds; and those that were above `EARLIER` times one in an earlier
    round, from the third on.

    Args:
        rounds: what was judged, by round; lineage belongs to its last one.
    """
    last = max(rounds)
    strongest = dict[int, dict[str, Judged]]()
    since = dict[int, int]()
    for number in sorted(rounds):
        if number != last and number < FIRST:
            continue
        for each in rounds[number]:
            for client, degree in each.degrees.items():
                if not degree > 1:  # NaN is not
                    continue
                since.setdefault(client, number)
                if number == last or degree > EARLIER:
                    known = strongest.setdefault(client, {})
                    before = known.get(each.measured.score)
                    if before is None or degree > before.degrees[client]:
                        known[each.measured.score] = each
    found = []
    for client, charges in strongest.items():
        order = sorted(charges.values(), key=lambda each: -each.degrees[client])
        first = order[0]
        z = float(first.z[first.measured.clients.index(client)])
        names = tuple(each.measured.score for each in order)
        found.append(StandsOut(client, z, first.degrees[client], names, since[client]))
    return tuple(sorted(found, key=lambda each: (-each.degree, each.client)))
