"""Trace one stored round with each method that the run compares."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..config.schema import Config, Provenance
from ..data.federated import FederatedData, TestData
from ..evaluation.contributions import COLUMNS, tidy
from ..evaluation.selection import Selection, select_inputs
from ..provenance.tracing import Contributions, trace
from ..store.rounds import Round
from .records import input_frame, layer_frame

PREDICTION_CHUNK = 256  # fixed: the size of a batch changes the last digits of a convolution
LAYER_SAMPLE = 20  # inputs whose layers are recorded


@dataclass(frozen=True)
class TracedRound:
    """What tracing one round gives: rows for `contributions`, `inputs` and `layers`, and the first method's trace."""

    number: int
    selection: Selection
    contributions: pd.DataFrame
    inputs: pd.DataFrame
    layers: pd.DataFrame
    trace: Contributions | None
    seconds: float


def trace_round(
    config: Config,
    methods: Sequence[Provenance],
    data: FederatedData,
    model: nn.Module,
    stored: Round,
    label_counts: dict[int, np.ndarray],
    device: torch.device,
) -> TracedRound:
    """Predict the test set with the round's global model, choose inputs, and trace them with every method.

    The first of `methods` is the run's own: layers and residuals are recorded for it.
    """
    began = time.perf_counter()
    model.to(device).load_state_dict(dict(stored.weights()))
    predictions = predict(model, data.test, device)
    labels = data.test.labels.numpy()
    used = {client: label_counts[client] for client in stored.clients}
    evaluation = config.evaluation
    selection = select_inputs(
        predictions, labels, used, evaluation.min_examples, evaluation.inputs, evaluation.max_inputs, config.seed
    )
    chosen = selection.inputs
    inputs, explained = data.test.inputs[chosen], predictions[chosen]
    frames, first = [], None
    for method in methods if len(chosen) else ():
        found = trace(
            model,
            inputs,
            stored,
            method,
            classes=torch.from_numpy(explained),
            layer_sample=LAYER_SAMPLE if first is None else 0,
        )
        frames.append(
            tidy(
                method.name,
                "round",
                method.target,
                stored.number,
                data.test.indices[chosen],
                labels[chosen],
                explained,
                found.clients,
                found.candidates,
                found.values,
                found.rows,
            )
        )
        first = first or found
    numbers = data.test.indices[chosen]
    return TracedRound(
        number=stored.number,
        selection=selection,
        contributions=pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS)),
        inputs=input_frame(stored.number, chosen, explained, first, data),
        layers=layer_frame(stored.number, numbers, first),
        trace=first,
        seconds=time.perf_counter() - began,
    )


def predict(model: nn.Module, test: TestData, device: torch.device) -> np.ndarray:
    """Predicted classes of the whole test set, int64 `[n]`."""
    model.eval()
    with torch.inference_mode():
        parts = [model(chunk.to(device)).argmax(1).cpu() for chunk in test.inputs.split(PREDICTION_CHUNK)]
    return torch.cat(parts).numpy()
