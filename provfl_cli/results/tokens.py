"""`tokens.parquet` of a run: what each client pushed each token of each traced response by; and the way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from ..imports import later

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = later("pandas")

FILE = "tokens.parquet"
COLUMNS = ("round", "scope", "target", "input", "position", "token", "text", "client", "contribution")
Key = tuple[int, str, str]  # round, scope, target


def token_frame(
    round: int,
    scope: str,
    target: str,
    inputs: np.ndarray,
    positions: np.ndarray,
    tokens: np.ndarray,
    texts: Sequence[str],
    clients: Sequence[int],
    values: np.ndarray,
) -> pd.DataFrame:
    """One row for each token and client.

    Args:
        round, scope, target: which trace.
        inputs: int `[rows]`, the number of the input that each token answers.
        positions: int `[rows]`, of the token in its response, from 0.
        tokens: int `[rows]`.
        texts: what each token adds to the text of its response.
        clients: those that fusion used.
        values: float64 `[rows, clients]`, contributions.
    """
    rows, width = values.shape
    frame = pd.DataFrame(
        {
            "round": np.full(rows * width, round, dtype=np.int32),
            "scope": pd.Series([scope] * (rows * width), dtype="str"),
            "target": pd.Series([target] * (rows * width), dtype="str"),
            "input": np.repeat(np.asarray(inputs, dtype=np.int32), width),
            "position": np.repeat(np.asarray(positions, dtype=np.int32), width),
            "token": np.repeat(np.asarray(tokens, dtype=np.int32), width),
            "text": pd.Series(np.repeat(np.array([*texts, ""], dtype=object)[:-1], width), dtype="str"),
            "client": np.tile(np.asarray(clients, dtype=np.int32), rows),
            "contribution": np.asarray(values, dtype=np.float64).ravel(),
        }
    )
    return frame[list(COLUMNS)]


@dataclass(frozen=True)
class SpokenTokens:
    """The tokens of one response: `texts` what each adds, `values` float64 `[tokens, clients]`."""

    texts: tuple[str, ...]
    values: np.ndarray


@dataclass(frozen=True)
class TokenTrace:
    """All responses of one trace: `clients` int `[K]`, the columns of every response's values; responses by input."""

    clients: np.ndarray
    responses: Mapping[int, SpokenTokens]


def token_traces(frame: pd.DataFrame) -> Iterator[tuple[Key, TokenTrace]]:
    """Yield (round, scope, target) and the arrays of each trace in the rows of `token_frame`, whatever their order.

    Raises:
        ValueError: a client's contribution to a token is missing or given twice, or a token has two texts.
    """
    for key, group in frame.groupby(["round", "scope", "target"], sort=False):
        clients, column = np.unique(group["client"].to_numpy(np.int64), return_inverse=True)
        places = group[["input", "position"]].to_numpy(np.int64)
        spoken, first, row = np.unique(places, axis=0, return_index=True, return_inverse=True)
        cells = row.ravel() * len(clients) + column
        whole = len(spoken) * len(clients)
        if len(cells) != whole or (np.bincount(cells, minlength=whole) != 1).any():
            raise ValueError(f"{key}: not one contribution for each token and client")
        flat = np.empty(whole)
        flat[cells] = group["contribution"].to_numpy()
        values = flat.reshape(len(spoken), len(clients))
        texts = group["text"].to_numpy(object)[first]
        if (group["text"].to_numpy(object) != texts[row.ravel()]).any():
            raise ValueError(f"{key}: a token has two texts")
        inputs, starts = np.unique(spoken[:, 0], return_index=True)
        behind = [*starts[1:], len(spoken)]
        for number, start, end in zip(inputs, starts, behind, strict=True):
            if (spoken[start:end, 1] != np.arange(end - start)).any():
                raise ValueError(f"{key}: tokens of the response to input {number} are missing")
        responses = {
            int(number): SpokenTokens(tuple(texts[start:end]), values[start:end])
            for number, start, end in zip(inputs, starts, behind, strict=True)
        }
        yield cast("Key", key), TokenTrace(clients, responses)
