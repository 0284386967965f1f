"""Who stands out among the clients of a round: robust scores, and the set of those that are suspected, if any.

Plain numbers: what is measured of clients is in `suspicion.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..imports import later

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
else:
    np = later("numpy")
    pd = later("pandas")

COLUMNS = ("round", "client", "score", "value", "z", "suspect")
NORMAL = 1.4826  # times the median absolute deviation is the standard deviation of a normal distribution
NOTHING = 1e-6  # of the median, counts as so much where logarithms are compared
FEWEST = 5  # clients, of which fewer have no spread to speak of
NOBODY = "nobody"


@dataclass(frozen=True)
class Score:
    """One thing that is measured of each client.

    Attributes:
        name: what it is called in tables.
        suspicious: which side is: `high`, `low` or `both`.
        threshold: of the robust z on that side, above which a client is suspected; see `attribution/README.md` for
            where it comes from.
        least: the smallest spread that is believed, in units of the score or of its logarithm: where most clients
            hardly differ, one that differs a little is not suspected for it.
        logarithm: whether clients are compared by the logarithms of their values: ten times as much is then as far away
            as a tenth, and nothing at all as far as a millionth of the median.
    """

    name: str
    suspicious: str
    threshold: float
    least: float
    logarithm: bool = False


@dataclass(frozen=True)
class Suspicion:
    """What is suspected of the clients of a round.

    Attributes:
        clients: their numbers.
        scores: which were measured.
        values: float64 `[scores, clients]`.
        z: the same as robust z on the suspicious side, `[scores, clients]`; NaN where there are too few clients.
        suspects: those with a z above its threshold, ascending; (): nobody, or there was nobody to compare.
    """

    clients: tuple[int, ...]
    scores: tuple[Score, ...]
    values: np.ndarray
    z: np.ndarray
    suspects: tuple[int, ...]

    @property
    def degrees(self) -> np.ndarray:
        """How suspect each client is, float64 `[clients]`: its largest z in units of the threshold, above 1 a suspect;
        0 where nobody can be."""
        thresholds = np.array([score.threshold for score in self.scores])
        degrees: np.ndarray = np.nan_to_num((self.z / thresholds[:, None]).max(axis=0, initial=0.0))
        return degrees

    @property
    def compared(self) -> bool:
        """Whether there were clients enough to compare; where not, nothing is said of anybody."""
        return len(self.clients) >= FEWEST

    @property
    def said(self) -> str | None:
        """The suspects in a few words: their numbers, or `nobody`; None where clients were not compared."""
        return self.called({}) if self.compared else None

    def called(self, names: Mapping[int, str]) -> str:
        """The same with names, of those that have one; clients were compared."""
        return ", ".join(names.get(client, str(client)) for client in self.suspects) or NOBODY

    def frame(self, number: int) -> pd.DataFrame:
        """Rows of `suspicion.csv` for the round of that number: one for each score and client.

        `suspect` is null where clients were not compared.
        """
        count = len(self.clients)
        suspect: list[bool | None] = [client in self.suspects if self.compared else None for client in self.clients]
        return pd.DataFrame(
            {
                "round": number,
                "client": np.tile(self.clients, len(self.scores)),
                "score": np.repeat([score.name for score in self.scores], count),
                "value": self.values.ravel(),
                "z": self.z.ravel(),
                "suspect": pd.array(suspect * len(self.scores), dtype="boolean"),
            },
            columns=list(COLUMNS),
        )


def suspicion_of(clients: Sequence[int], values: Mapping[Score, np.ndarray], strictness: float = 1.0) -> Suspicion:
    """Compare the clients of a round with each other.

    Args:
        clients: their numbers.
        values: what was measured of each, float64 `[clients]`, by score.
        strictness: all thresholds are multiplied by it: above 1 fewer clients are suspected.
    """
    scores = tuple(replace(score, threshold=score.threshold * strictness) for score in values)
    measured = np.stack([np.asarray(row, dtype=np.float64) for row in values.values()])
    z = np.full_like(measured, np.nan)
    if len(clients) >= FEWEST:
        z = np.stack([robust_z(row, score) for row, score in zip(measured, scores, strict=True)])
    above = (z > np.array([score.threshold for score in scores])[:, None]).any(axis=0)  # NaN is not
    suspects = tuple(sorted(clients[at] for at in np.flatnonzero(above).tolist()))
    return Suspicion(tuple(clients), scores, measured, z, suspects)


def robust_z(values: np.ndarray, score: Score) -> np.ndarray:
    """How far each value is from the median on the suspicious side, in robust standard deviations.

    These are 1.4826 times the median absolute deviation, which up to half of the clients cannot move far, however
    wrong they are; but no less than `score.least`.
    """
    if score.logarithm:
        values = np.log(np.maximum(values, max(NOTHING * float(np.median(values)), np.finfo(float).tiny)))
    middle = np.median(values)
    spread = max(NORMAL * float(np.median(np.abs(values - middle))), score.least)
    z: np.ndarray = np.asarray((values - middle) / spread)
    if score.suspicious == "both":
        z = np.asarray(np.abs(z))
    return -z if score.suspicious == "low" else z
