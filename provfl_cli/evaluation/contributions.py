"""Contributions as a tidy frame (`contributions.parquet`), and the way back to arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from scipy.special import softmax

from ..errors import RunError

COLUMNS = (
    "method", "scope", "target", "round", "input", "label", "prediction",
    "kind", "client", "contribution", "share", "rank", "tie",
)  # fmt: skip
TRACE = ("method", "scope", "target", "round")  # what one trace is identified by
TOLERANCE = 1e-6  # of sum |T|: contributions that are closer count as equal


def ranks(contributions: np.ndarray) -> np.ndarray:
    """Rank candidates for each input: 1 plus how many others exceed them by more than the tolerance.

    Every pair is compared on its own, so near-equal neighbours do not chain into one long tie: with a tolerance of 2
    the contributions 3, 2, 0 have ranks 1, 1, 2 (3 exceeds 0 by more than 2, 2 does not). Rank 1 is the top set `M`
    of design section 5.

    Args:
        contributions: float64 `[inputs, candidates]`.

    Returns:
        int64 `[inputs, candidates]`.
    """
    tolerance = TOLERANCE * np.abs(contributions).sum(axis=1, keepdims=True)
    bars = contributions + tolerance
    ordered = np.sort(contributions, axis=1)
    result = np.empty(contributions.shape, dtype=np.int64)
    for row, (values, bar) in enumerate(zip(ordered, bars, strict=True)):
        result[row] = len(values) - np.searchsorted(values, bar, side="right") + 1
    return result


def tidy(
    method: str,
    scope: str,
    target: str,
    round: int,
    inputs: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    clients: Sequence[int],
    candidates: np.ndarray,
    contributions: np.ndarray,
    rows: Mapping[str, np.ndarray],
) -> pd.DataFrame:
    """One row for each input and client, then one for each input and other kind.

    `share` is the softmax over candidates of the raw contributions (paper eq. 7), `rank` see `ranks`, `tie` says
    that the client is one of several at rank 1. A client that fusion did not use keeps its number and contribution;
    its share, rank and tie are null. Rows of other kinds have no client either.

    Args:
        method, scope, target, round: what identifies the trace.
        inputs: int `[n]`, indices in the server's test set.
        labels: int `[n]`, true labels.
        predictions: int `[n]`.
        clients: numbers of the `K` clients.
        candidates: bool `[K]`, whether fusion used the client.
        contributions: float64 `[n, K]`.
        rows: contributions of other kinds (`previous`, `momentum`, `noise`, `stale`, `control`, `forgotten`), float64
            `[n]`.

    Raises:
        RunError: fusion used no client, or a contribution is not finite.
    """
    values = np.asarray(contributions, dtype=np.float64)
    used = np.asarray(candidates, dtype=bool)
    n, k = values.shape
    if not used.any():
        raise RunError(f"round {round}: fusion used none of the {k} clients, so there is nobody to rank")
    broken = int((~np.isfinite(values[:, used])).any(axis=1).sum())
    if broken:
        raise RunError(
            f"{method}, round {round}: contributions to {broken} of {n} inputs are not finite; "
            "has training diverged? try a smaller federation.learning_rate"
        )
    width = k + len(rows)
    share = np.full((n, width), np.nan)
    rank = np.zeros((n, width), dtype=np.int32)
    here = np.flatnonzero(used)
    if n:
        share[:, here] = softmax(values[:, here], axis=1)
        rank[:, here] = ranks(values[:, here])
    tie = (rank == 1) & ((rank == 1).sum(axis=1, keepdims=True) > 1)
    ranked = np.tile(np.r_[used, np.zeros(len(rows), dtype=bool)], n)
    is_client = np.tile(np.arange(width) < k, n)
    others = [np.asarray(row, dtype=np.float64)[:, None] for row in rows.values()]
    frame = pd.DataFrame(
        {
            "round": np.full(n * width, round, dtype=np.int32),
            "input": np.repeat(np.asarray(inputs, dtype=np.int32), width),
            "label": np.repeat(np.asarray(labels, dtype=np.int32), width),
            "prediction": np.repeat(np.asarray(predictions, dtype=np.int32), width),
            "kind": _words(["client"] * k + list(rows), n),
            "client": nullable(np.tile([*clients, *(0 for _ in rows)], n), is_client),
            "contribution": np.concatenate([values, *others], axis=1).ravel(),
            "share": share.ravel(),
            "rank": nullable(rank.ravel(), ranked),
            "tie": pd.arrays.BooleanArray(tie.ravel(), ~ranked),
        }
    )
    for name, word in (("method", method), ("scope", scope), ("target", target)):
        frame[name] = _words([word], n * width)
    return frame[list(COLUMNS)]


def _words(words: Sequence[str], repeats: int) -> pd.Series[str]:
    """`words` repeated, as a string column, without a Python string for each row."""
    codes, distinct = pd.factorize(np.asarray(words, dtype=object))
    return pd.Series(pd.Categorical.from_codes(np.tile(codes, repeats), categories=pd.Index(distinct))).astype("str")


def nullable(values: np.ndarray, valid: np.ndarray) -> pd.arrays.IntegerArray:
    """Whole numbers as a column, null where they are not `valid` (bool, of the same shape `[rows]`)."""
    return pd.arrays.IntegerArray(values.astype(np.int32), ~valid)


@dataclass(frozen=True)
class Trace:
    """One trace as arrays; clients that fusion did not use are left out.

    `inputs`, `labels`, `predictions` int `[n]`; `clients` int `[K]`; `contributions` float64 `[n, K]`; `rank` int
    `[n, K]`. `without` int64 `[n, K]`: the class predicted without each client, None where that was not measured.
    """

    inputs: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    clients: np.ndarray
    contributions: np.ndarray
    rank: np.ndarray
    without: np.ndarray | None = None


def traces(frame: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str, int], Trace]]:
    """Yield `(method, scope, target, round)` and the arrays of each trace in a tidy frame, in the frame's order.

    The order of rows within a trace does not matter; inputs and clients come in ascending order.

    Raises:
        ValueError: a candidate's contribution to an input is missing or given twice.
    """
    ranked = frame[(frame["kind"] == "client") & frame["rank"].notna()]
    for key, group in ranked.groupby(list(TRACE), sort=False):
        inputs, first, row = np.unique(group["input"].to_numpy(), return_index=True, return_inverse=True)
        clients, column = np.unique(group["client"].to_numpy(np.int64), return_inverse=True)
        cells = row * len(clients) + column
        if len(cells) != len(inputs) * len(clients) or (np.bincount(cells) != 1).any():
            raise ValueError(f"{key}: not one contribution for each input and candidate")
        contributions = np.empty(len(cells))
        rank = np.empty(len(cells), dtype=np.int64)
        contributions[cells] = group["contribution"].to_numpy()
        rank[cells] = group["rank"].to_numpy(np.int64)
        without = None
        if "without" in group and group["without"].notna().all():
            without = np.empty(len(cells), dtype=np.int64)
            without[cells] = group["without"].to_numpy(np.int64)
        shape = (len(inputs), len(clients))
        method, scope, target, round = cast("tuple[str, str, str, int]", key)
        yield (
            (method, scope, target, int(round)),
            Trace(
                inputs=inputs,
                labels=group["label"].to_numpy()[first],
                predictions=group["prediction"].to_numpy()[first],
                clients=clients,
                contributions=contributions.reshape(shape),
                rank=rank.reshape(shape),
                without=None if without is None else without.reshape(shape),
            ),
        )
