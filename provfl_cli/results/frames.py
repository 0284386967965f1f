"""Rows of `inputs.parquet` and `layers.parquet`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..data.federated import Dialogues, FederatedData, Texts
from ..imports import later
from ..provenance.contributions import Contributions

if TYPE_CHECKING:
    import pandas as pd

    from .. import pixels
else:
    pd = later("pandas")
    pixels = later("provfl_cli.pixels")

LAYER_COLUMNS = ("round", "input", "layer", "client", "contribution", "active_neurons", "neurons")


def input_frame(
    number: int,
    chosen: np.ndarray,
    predictions: np.ndarray,
    contributions: Contributions | None,
    data: FederatedData,
    said: Sequence[str] = (),
) -> pd.DataFrame:
    """One row a traced input: where it is, what the model made of it, the conservation residual, and what it is.

    The last column is `picture` (PNG) or `text`; of dialogues there are `prompt`, `response` (what was `said`) and
    `expected`.
    """
    test = data.test
    shown = test.shown[chosen]
    if isinstance(data.form, Dialogues):
        spoken = {
            "prompt": [dialogue.prompt for dialogue in shown],
            "response": list(said),
            "expected": [dialogue.response for dialogue in shown],
        }
        columns = {name: pd.Series(texts, dtype="str") for name, texts in spoken.items()}
    elif isinstance(data.form, Texts):
        columns = {"text": pd.Series(shown, dtype="str")}
    else:
        columns = {"picture": pd.Series([pixels.png(picture) for picture in shown], dtype="object")}
    return pd.DataFrame(
        {
            "round": np.full(len(chosen), number, dtype=np.int32),
            "input": test.indices[chosen].astype(np.int32),
            "split": test.split,
            "label": test.labels.numpy()[chosen].astype(np.int32),
            "prediction": predictions.astype(np.int32),
            **({} if isinstance(data.form, Dialogues) else {"probabilities": _probabilities(contributions)}),
            "residual": np.empty(0) if contributions is None else contributions.residuals,
            **columns,
        }
    )


def _probabilities(contributions: Contributions | None) -> list[np.ndarray]:
    return [] if contributions is None else list(contributions.probabilities)


def layer_frame(number: int, inputs: np.ndarray, contributions: Contributions | None) -> pd.DataFrame:
    """One row for each sampled input, layer and client: its part of the contribution, and the neurons that took part.

    `inputs` are the numbers of all traced inputs; the sample is the first of them.
    """
    if contributions is None:
        return pd.DataFrame(columns=list(LAYER_COLUMNS))
    clients = np.asarray(contributions.clients, dtype=np.int32)
    frames = []
    for layer in contributions.layers:
        sample, count = layer.contributions.shape
        frames.append(
            pd.DataFrame(
                {
                    "round": np.full(sample * count, number, dtype=np.int32),
                    "input": np.repeat(inputs[:sample].astype(np.int32), count),
                    "layer": layer.layer,
                    "client": np.tile(clients, sample),
                    "contribution": layer.contributions.ravel(),
                    "active_neurons": np.repeat(layer.active.astype(np.int64), count),
                    "neurons": np.repeat(layer.neurons.astype(np.int64), count),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)
