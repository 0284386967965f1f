"""Trace one stored round with each method that the run compares."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..config.schema import Config, Provenance
from ..data.federated import FederatedData, TestData
from ..evaluation.contributions import COLUMNS, tidy
from ..evaluation.selection import Selection, select_inputs
from ..provenance.lineage import lineage_round
from ..provenance.stack import Source
from ..provenance.tracing import Contributions, trace
from ..store.rounds import Round
from .records import input_frame, layer_frame

PREDICTION_CHUNK = 256  # fixed: the size of a batch changes the last digits of a convolution
LAYER_SAMPLE = 20  # inputs whose layers are recorded


@dataclass(frozen=True)
class TracedRound:
    """What tracing one round gives: rows for `contributions`, `inputs` and `layers`, and the first method's trace.

    `lineage` is that method's trace over all rounds, and `last` the last round in which each client took part; None and
    empty where `provenance.scope` is `round`.
    """

    number: int
    selection: Selection
    contributions: pd.DataFrame
    inputs: pd.DataFrame
    layers: pd.DataFrame
    trace: Contributions | None
    seconds: float
    lineage: Contributions | None = None
    last: Mapping[int, int] = field(default_factory=dict)


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

    The first of `methods` is the run's own: layers and residuals are recorded for it, and it alone is traced over all
    rounds as well where `provenance.scope` asks for that. Both scopes see the same inputs: those whose label is held by
    somebody who took part, in this round or, with lineage, in any.
    """
    began = time.perf_counter()
    model.to(device).load_state_dict(dict(stored.weights()))
    predictions = predict(model, data.test, device)
    labels = data.test.labels.numpy()
    lineage = lineage_round(stored) if config.provenance.scope == "lineage" else None
    taking_part = stored.clients if lineage is None else lineage.clients
    used = {client: label_counts[client] for client in taking_part}
    evaluation = config.evaluation
    selection = select_inputs(
        predictions, labels, used, evaluation.min_examples, evaluation.inputs, evaluation.max_inputs, config.seed
    )
    chosen = selection.inputs
    numbers, inputs, explained = data.test.indices[chosen], data.test.inputs[chosen], predictions[chosen]
    asked: list[tuple[Provenance, str, Source]] = [(method, "round", stored) for method in methods]
    if lineage is not None:
        asked.append((methods[0], "lineage", lineage))
    frames, found = [], dict[tuple[str, str], Contributions]()
    for method, scope, source in asked if len(chosen) else ():
        classes, sample = torch.from_numpy(explained), 0 if found else LAYER_SAMPLE
        one = trace(model, inputs, source, method, classes, sample)
        found[method.name, scope] = one
        frames.append(
            tidy(
                method.name,
                scope,
                method.target,
                stored.number,
                numbers,
                labels[chosen],
                explained,
                one.clients,
                one.candidates,
                one.values,
                one.rows,
            )
        )
    own = found.get((methods[0].name, "round"))
    return TracedRound(
        number=stored.number,
        selection=selection,
        contributions=pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS)),
        inputs=input_frame(stored.number, chosen, explained, own, data),
        layers=layer_frame(stored.number, numbers, own),
        trace=own,
        seconds=time.perf_counter() - began,
        lineage=found.get((methods[0].name, "lineage")),
        last={} if lineage is None else dict(zip(lineage.clients, lineage.lineage.rows.last, strict=True)),
    )


def predict(model: nn.Module, test: TestData, device: torch.device) -> np.ndarray:
    """Predicted classes of the whole test set, int64 `[n]`."""
    model.eval()
    with torch.inference_mode():
        parts = [model(chunk.to(device)).argmax(1).cpu() for chunk in test.inputs.split(PREDICTION_CHUNK)]
    return torch.cat(parts).numpy()
