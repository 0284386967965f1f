"""What retraining a federation without some of its clients changed: what attributions are measured against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

FULL, CLEAN_TWIN = "full", "clean_twin"
RANDOM_SUBSETS = ("all", "halves")  # designs that a linear datamodeling score is taken over; the first that is there


@dataclass(frozen=True)
class Retrained:
    """What retraining without clients changed, for `n` inputs and `m` retrainings of a federation of `K` clients.

    Attributes:
        inputs: int64 `[n]`, ascending indices in the server's test set.
        clients: int64 `[K]`, all clients of the federation, ascending.
        subsets: bool `[m, K]`, which clients each retraining kept.
        designs: object `[m]`, what each was trained for.
        seeds: int64 `[m]`, of its training.
        values: float64 `[n, m]`, margin (log-odds) of the class that the whole federation's model predicted.
        predictions: int64 `[n, m]`.
        removes: object `[m]`, of `removal`, whose first clients are gone: a method's, `largest`, `random 1`, …; ""
            where it is none, None where there is no removal at all.
    """

    inputs: np.ndarray
    clients: np.ndarray
    subsets: np.ndarray
    designs: np.ndarray
    seeds: np.ndarray
    values: np.ndarray
    predictions: np.ndarray
    removes: np.ndarray | None = None

    @cached_property
    def seed(self) -> int:
        """The training seed of the whole federation; where that is not among the retrainings, of the first of them."""
        full = np.flatnonzero(self.designs == FULL)
        return int(self.seeds[full[0] if len(full) else 0])

    @cached_property
    def _row_of(self) -> dict[bytes, int]:
        """The first retraining of each subset with the whole federation's seed; twins keep everybody and are none."""
        rows: dict[bytes, int] = {}
        for row in np.flatnonzero((self.seeds == self.seed) & (self.designs != CLEAN_TWIN)):
            rows.setdefault(self.subsets[row].tobytes(), int(row))
        return rows

    def row(self, kept: np.ndarray) -> int:
        """The retraining that kept just these clients, bool `[K]`, whatever it was trained for; -1: there is none."""
        return self._row_of.get(np.asarray(kept, dtype=bool).tobytes(), -1)

    def rows(self, kept: np.ndarray) -> np.ndarray:
        """The same for many sets: bool `[..., K]` to int64 `[...]`."""
        sets, back = np.unique(kept.reshape(-1, kept.shape[-1]), axis=0, return_inverse=True)
        found = np.fromiter((self.row(one) for one in sets), dtype=np.int64, count=len(sets))
        return found[back.ravel()].reshape(kept.shape[:-1])

    @cached_property
    def full(self) -> int:
        """The retraining of everybody; -1: there is none."""
        return self.row(np.ones(len(self.clients), dtype=bool))

    @cached_property
    def without_each(self) -> np.ndarray:
        """int64 `[K]`: the retraining without each client, -1 where there is none."""
        return self.rows(~np.eye(len(self.clients), dtype=bool))

    def removals(self, whose: str, count: int) -> np.ndarray:
        """int64 `[r]`: retrainings without the first `count` clients of the orders (such as `random`) so named."""
        if self.removes is None:
            return np.empty(0, dtype=np.int64)
        named = np.fromiter((name.partition(" ")[0] == whose for name in self.removes), bool, len(self.removes))
        return np.flatnonzero(named & ((~self.subsets).sum(axis=1) == count) & (self.seeds == self.seed))

    @cached_property
    def random_rows(self) -> np.ndarray:
        """int64 `[s]`: retrainings of different random subsets of the clients, with the whole federation's seed."""
        for design in RANDOM_SUBSETS:
            rows = np.flatnonzero((self.designs == design) & (self.seeds == self.seed))
            if len(rows):
                return np.sort(rows[np.unique(self.subsets[rows], axis=0, return_index=True)[1]])
        return np.empty(0, dtype=np.int64)

    @cached_property
    def random_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Retrainings of the same random subset, the first with the whole federation's seed, the second with another.

        Two int64 `[p]`; a subset that was trained again more than once counts once, with the first other seed.
        """
        first, other = [], []
        for row in self.random_rows:
            same = (self.subsets == self.subsets[row]).all(axis=1) & np.isin(self.designs, RANDOM_SUBSETS)
            again = np.flatnonzero(same & (self.seeds != self.seed))
            if len(again):
                first.append(row)
                other.append(again[0])
        return np.asarray(first, dtype=np.int64), np.asarray(other, dtype=np.int64)

    @cached_property
    def twin(self) -> int:
        """The clean twin: everybody, the planted client without what was planted; -1: there is none."""
        rows = np.flatnonzero((self.designs == CLEAN_TWIN) & (self.seeds == self.seed))
        return int(rows[0]) if len(rows) else -1

    def of_inputs(self, inputs: np.ndarray) -> Retrained:
        """The same retrainings for some of the inputs, int `[i]`, in that order.

        Raises:
            ValueError: an input was not measured.
        """
        at = np.searchsorted(self.inputs, inputs)
        if (at >= len(self.inputs)).any() or not np.array_equal(self.inputs[at], inputs):
            raise ValueError(
                f"retraining measured the inputs {self.inputs.tolist()}, not {np.asarray(inputs).tolist()}"
            )
        return replace(self, inputs=self.inputs[at], values=self.values[at], predictions=self.predictions[at])


def retrained_from(
    retrainings: pd.DataFrame, retrained: pd.DataFrame, number: int, clients: Iterable[int] | None = None
) -> Retrained:
    """The truth for the inputs of one traced round, from the two tables of a run folder.

    Retrainings that were not measured in that round, or that diverged (a value is not finite), are left out.

    Args:
        retrainings: `retrainings.csv`: `retraining, design, seed, clients` (numbers kept, separated by spaces), and
            `removes` where something was removed; a row for each retraining.
        retrained: `retrained.parquet`: `retraining, round, input, value, prediction`.
        number: of the traced round.
        clients: all clients of the federation; None: all that any retraining kept.

    Raises:
        ValueError: an input was not measured just once by a retraining, or a client is unknown.
    """
    kept = [_numbers(text) for text in retrainings["clients"]]
    mentioned = {client for numbers in kept for client in numbers}
    known = np.array(sorted(mentioned if clients is None else set(clients)), dtype=np.int64)
    strangers = sorted(mentioned - set(known.tolist()))
    if strangers:
        raise ValueError(f"retrainings kept clients {strangers}, which are not in the federation")
    here = retrained[retrained["round"] == number]
    inputs, row = np.unique(here["input"].to_numpy(np.int64), return_inverse=True)
    listed = retrainings["retraining"].to_numpy(np.int64)
    column_of = {int(one): position for position, one in enumerate(listed)}
    of = here["retraining"].to_numpy(np.int64)
    if unlisted := sorted(set(of.tolist()) - set(column_of)):
        raise ValueError(f"retrainings {unlisted} were measured and are not listed")
    column = np.fromiter((column_of[one] for one in of.tolist()), dtype=np.int64, count=len(of))
    times = np.zeros((len(inputs), len(listed)), dtype=np.int64)
    np.add.at(times, (row, column), 1)
    measured = times.any(axis=0)
    if (times[:, measured] != 1).any():
        raise ValueError(f"round {number}: not one value for each input and retraining")
    values, predictions = np.full(times.shape, np.nan), np.empty(times.shape, dtype=np.int64)
    values[row, column] = here["value"].to_numpy(np.float64)
    predictions[row, column] = here["prediction"].to_numpy(np.int64)
    keep = measured & np.isfinite(values).all(axis=0)
    subsets = np.array([np.isin(known, numbers) for numbers in kept], dtype=bool).reshape(len(kept), len(known))
    return Retrained(
        inputs=inputs,
        clients=known,
        subsets=subsets[keep],
        designs=retrainings["design"].to_numpy(object)[keep],
        seeds=retrainings["seed"].to_numpy(np.int64)[keep],
        values=values[:, keep],
        predictions=predictions[:, keep],
        removes=retrainings["removes"].fillna("").to_numpy(object)[keep] if "removes" in retrainings else None,
    )


def rounds_retrained(
    retrainings: pd.DataFrame, retrained: pd.DataFrame, clients: Sequence[int]
) -> dict[int, Retrained]:
    """`retrained_from` for each round that was traced."""
    numbers = sorted({int(number) for number in retrained["round"]})
    return {number: retrained_from(retrainings, retrained, number, clients) for number in numbers}


def _numbers(text: object) -> list[int]:
    """The numbers in a cell such as `0 2 3`; nobody where the cell is empty."""
    return [] if pd.isna(text) else [int(word) for word in str(text).split()]  # type: ignore[call-overload]
