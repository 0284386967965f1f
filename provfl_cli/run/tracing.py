"""Trace one stored round with each preset and each method that the run compares."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..attribution.counterfactual import steps_made
from ..attribution.method import Attributed, Case
from ..config.schema import Config, Provenance
from ..data.federated import FederatedData, TestData
from ..evaluation.contributions import COLUMNS, nullable, tidy
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
    """What tracing one round gives: rows for `contributions`, `inputs` and `layers`, and the first preset's trace.

    `method_seconds` is what each preset and method took, by name and scope; `notes` what there is to know of methods. A
    method that could rank nobody has a note and no rows.
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
    method_seconds: Mapping[tuple[str, str], float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
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
    """Predict the test set with the round's global model, choose inputs, and attribute them by every method.

    `methods` are presets of provenance. Those of `config.attribution` follow, without any that a preset has done under
    the same name.

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
    frames, found, seconds = [], dict[tuple[str, str], Contributions](), dict[tuple[str, str], float]()
    for method, scope, source in asked if len(chosen) else ():
        classes, sample = torch.from_numpy(explained), 0 if found else LAYER_SAMPLE
        started = time.perf_counter()
        one = trace(model, inputs, source, method, classes, sample)
        seconds[method.name, scope] = time.perf_counter() - started
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
    rivals = [rival for rival in config.attribution if (rival.name, "round") not in found] if len(chosen) else []
    notes = []
    if rivals:
        case = Case(
            model=model,
            inputs=inputs,
            numbers=numbers,
            labels=labels[chosen],
            classes=explained,
            stored=stored,
            fusion=config.fusion,
            privacy=config.privacy,
            data=data,
            provenance=config.provenance,
            seed=config.seed,
            device=device,
            steps=steps_made(config, data, stored),
        )
    for rival in rivals:
        result = rival.attribute(case)
        notes += [result.note] if result.note else []
        if not result.candidates.any():
            notes.append(f"{rival.name} could rank nobody in round {stored.number}")
            continue
        seconds[rival.name, "round"] = result.seconds
        frames.append(_rows(rival.name, case, result))
    own = found.get((methods[0].name, "round"))
    return TracedRound(
        number=stored.number,
        selection=selection,
        contributions=pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS)),
        inputs=input_frame(stored.number, chosen, explained, own, data),
        layers=layer_frame(stored.number, numbers, own),
        trace=own,
        seconds=time.perf_counter() - began,
        method_seconds=seconds,
        notes=tuple(notes),
        lineage=found.get((methods[0].name, "lineage")),
        last={} if lineage is None else dict(zip(lineage.clients, lineage.lineage.rows.last, strict=True)),
    )


def _rows(name: str, case: Case, result: Attributed) -> pd.DataFrame:
    """Rows for `contributions`, with further columns of what only some methods have.

    `error`: the standard errors, of a method that estimates. `without`: the class predicted without the client, of one
    that measures it.
    """
    rows = tidy(
        name,
        "round",
        result.target,
        case.stored.number,
        case.numbers,
        case.labels,
        case.classes,
        case.stored.clients,
        result.candidates,
        result.values,
        {},
    )
    if result.errors is not None:
        rows["error"] = result.errors.ravel()
    if result.without is not None:
        rows["without"] = nullable(result.without.ravel(), result.without.ravel() >= 0)
    return rows


def predict(model: nn.Module, test: TestData, device: torch.device) -> np.ndarray:
    """Predicted classes of the whole test set, int64 `[n]`."""
    model.eval()
    with torch.inference_mode():
        parts = [model(chunk.to(device)).argmax(1).cpu() for chunk in test.inputs.split(PREDICTION_CHUNK)]
    return torch.cat(parts).numpy()
