"""Rows of `inputs.parquet` and `layers.parquet`."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd

from ..data.federated import FederatedData, Texts
from ..provenance.contributions import Contributions

LAYER_COLUMNS = ("round", "input", "layer", "client", "contribution", "active_neurons", "neurons")


def input_frame(
    number: int, chosen: np.ndarray, predictions: np.ndarray, contributions: Contributions | None, data: FederatedData
) -> pd.DataFrame:
    """One row a traced input: where it is, what the model made of it, the conservation residual, and what it is.

    The last column is `picture` (PNG) or `text`.
    """
    test = data.test
    if isinstance(data.form, Texts):
        name, column = "text", pd.Series(test.shown[chosen], dtype="str")
    else:
        name, column = "picture", pd.Series([png(pixels) for pixels in test.shown[chosen]], dtype="object")
    return pd.DataFrame(
        {
            "round": np.full(len(chosen), number, dtype=np.int32),
            "input": test.indices[chosen].astype(np.int32),
            "split": test.split,
            "label": test.labels.numpy()[chosen].astype(np.int32),
            "prediction": predictions.astype(np.int32),
            "probabilities": [] if contributions is None else list(contributions.probabilities),
            "residual": np.empty(0) if contributions is None else contributions.residuals,
            name: column,
        }
    )


def png(pixels: np.ndarray) -> bytes:
    """A picture uint8 `[height, width, channels]` as PNG."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels[..., :3]).save(out, "PNG")
    return out.getvalue()


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
