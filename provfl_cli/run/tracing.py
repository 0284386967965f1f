"""Trace one stored round with each preset and each method that the run compares."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..attribution.counterfactual import steps_made
from ..attribution.method import Attribution, AttributionResult, Case, attributions
from ..config.schema import Config
from ..data.federated import FederatedData
from ..evaluation.contributions import COLUMNS, nullable, tidy
from ..evaluation.selection import Selection, select_inputs
from ..provenance.contributions import Contributions
from ..provenance.lineage import LineageRound, lineage_round
from ..provenance.settings import Provenance
from ..provenance.shared_part import load_part
from ..provenance.stack import Source
from ..provenance.tracing import trace
from ..results.frames import input_frame, layer_frame
from ..store.rounds import Round

PREDICTION_CHUNK = 256  # fixed: the size of a batch changes the last digits of a convolution
LAYER_SAMPLE = 20  # inputs whose layers are recorded


@dataclass(frozen=True)
class TracedRound:
    """What tracing one round gives: rows for `contributions`, `inputs` and `layers`, and the first preset's trace.

    `method_seconds` is what each preset and method took, by name and scope, the median of `evaluation.repeats` turns;
    `seconds` is all that was spent. `notes` is what there is to know of methods: one that could rank nobody has a note
    and no rows.
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
    load_part(model.to(device), stored.weights())
    predictions = class_logits(model, data.test.inputs, device).argmax(1).numpy()
    labels = data.test.labels.numpy()
    lineage = lineage_round(stored) if config.provenance.scope == "lineage" else None
    taking_part = stored.clients if lineage is None else lineage.clients
    used = {client: label_counts[client] for client in taking_part}
    evaluation = config.evaluation
    selection = select_inputs(
        predictions, labels, used, evaluation.min_examples, evaluation.inputs, evaluation.max_inputs, config.seed
    )
    chosen = selection.inputs
    case = Case(
        model=model,
        inputs=data.test.inputs[chosen],
        numbers=data.test.indices[chosen],
        labels=labels[chosen],
        classes=predictions[chosen],
        stored=stored,
        form=data.form,
        fusion=config.fusion,
        privacy=config.privacy,
        provenance=config.provenance,
        seed=config.seed,
        device=device,
        steps=steps_made(config, {client.id: len(client.labels) for client in data.clients}, stored)
        if config.attribution
        else (),
    )
    asked = Attributions()
    if len(chosen):
        asked = attributed(case, methods, attributions(config.attribution), lineage, evaluation.repeats)
    own = asked.traces.get((methods[0].name, "round"))
    return TracedRound(
        number=stored.number,
        selection=selection,
        contributions=asked.rows,
        inputs=input_frame(stored.number, chosen, predictions[chosen], own, data),
        layers=layer_frame(stored.number, case.numbers, own),
        trace=own,
        seconds=time.perf_counter() - began,
        method_seconds=asked.seconds,
        notes=asked.notes,
        lineage=asked.traces.get((methods[0].name, "lineage")),
        last={} if lineage is None else dict(zip(lineage.clients, lineage.lineage.rows.last, strict=True)),
    )


@dataclass(frozen=True)
class Attributions:
    """What several methods say about the same predictions.

    `rows` are those of `contributions.parquet`; `traces` those of presets, and `seconds` what each method took, by name
    and scope, the median of its turns; `notes` what there is to know of methods. A method that could rank nobody has a
    note and no rows.
    """

    rows: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS)))
    traces: Mapping[tuple[str, str], Contributions] = field(default_factory=dict)
    seconds: Mapping[tuple[str, str], float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def attributed(
    case: Case,
    presets: Sequence[Provenance],
    rivals: Sequence[Attribution],
    lineage: LineageRound | None = None,
    repeats: int = 1,
) -> Attributions:
    """Attribute the predictions of `case`, of which there is at least one, by every method.

    Args:
        case: predictions of a stored round's global model.
        presets: ways of tracing; of the first the layers of some inputs are recorded too.
        rivals: other methods, of which those are left out that a preset has done under the same name.
        lineage: the first preset is traced over all these rounds as well; None: it is not.
        repeats: turns of each method. They give the same rows; the first one of a process often takes longer.
    """
    asked: list[tuple[Provenance, str, Source]] = [(preset, "round", case.stored) for preset in presets]
    if lineage is not None and presets:
        asked.append((presets[0], "lineage", lineage))
    frames, traces, seconds = (
        list[pd.DataFrame](),
        dict[tuple[str, str], Contributions](),
        dict[tuple[str, str], float](),
    )
    case.model.to(case.device)
    for preset, scope, source in asked:
        sample = 0 if traces else LAYER_SAMPLE
        spread = replace(preset, shards=case.provenance.shards, shard_on=case.provenance.shard_on)
        spent = []
        for _ in range(repeats):
            started = time.perf_counter()
            contributions = trace(case.model, case.inputs, source, spread, torch.from_numpy(case.classes), sample)
            spent.append(time.perf_counter() - started)
        seconds[preset.name, scope] = median(spent)
        traces[preset.name, scope] = contributions
        frames.append(_rows(case, preset.name, scope, preset.target, contributions))
    notes = list(dict.fromkeys(note for contributions in traces.values() for note in contributions.notes))
    for rival in rivals:
        if (rival.name, "round") in traces:
            continue
        results = [rival.attribute(case) for _ in range(repeats)]
        result = results[-1]
        notes += [result.note] if result.note else []
        if not result.candidates.any():
            notes.append(f"{rival.name} could rank nobody in round {case.stored.number}")
            continue
        seconds[rival.name, "round"] = median(turn.seconds for turn in results)
        frames.append(_with_more(_rows(case, rival.name, "round", result.target, result), result))
    if not frames:
        return Attributions(notes=tuple(notes))
    return Attributions(pd.concat(frames, ignore_index=True), traces, seconds, tuple(notes))


def _rows(case: Case, name: str, scope: str, target: str, result: Contributions | AttributionResult) -> pd.DataFrame:
    """Rows for `contributions`."""
    return tidy(
        name,
        scope,
        target,
        case.stored.number,
        case.numbers,
        case.labels,
        case.classes,
        result.clients if isinstance(result, Contributions) else case.stored.clients,
        result.candidates,
        result.values,
        result.rows if isinstance(result, Contributions) else {},
    )


def _with_more(rows: pd.DataFrame, result: AttributionResult) -> pd.DataFrame:
    """The rows with what only some methods have.

    `error`: the standard errors, of a method that estimates. `without`: the class predicted without the client, of one
    that measures it.
    """
    if result.errors is not None:
        rows["error"] = result.errors.ravel()
    if result.without is not None:
        rows["without"] = nullable(result.without.ravel(), result.without.ravel() >= 0)
    return rows


def class_logits(model: nn.Module, inputs: Tensor, device: torch.device) -> Tensor:
    """What the model makes of inputs, with the weights that it holds: `[inputs, classes]`, on the CPU."""
    model.eval()
    with torch.inference_mode():
        # A copy: a model may change its input in place.
        parts = [model(chunk.to(device, copy=True)).cpu() for chunk in inputs.split(PREDICTION_CHUNK)]
    return torch.cat(parts)
