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

from ..attribution.method import Attribution, AttributionResult, Case
from ..attribution.provenance import for_case, traced
from ..attribution.suspects import Suspicion
from ..config.schema import Evaluation
from ..data.federated import FederatedData, TestData
from ..errors import RunError
from ..evaluation.contributions import COLUMNS, nullable, tidy
from ..evaluation.selection import Selection, select_inputs
from ..fusion.fuse import Fusion
from ..fusion.privacy import Privacy
from ..provenance.contributions import Contributions
from ..provenance.lineage import LineageRound
from ..provenance.outputs import Inputs, outputs_of
from ..provenance.responses import ResponseScore, trace_responses
from ..provenance.settings import Provenance
from ..provenance.stack import Source
from ..results.frames import input_frame, layer_frame
from ..results.tokens import token_frame
from ..store.rounds import Round

TOKENS_APART = 1e-4  # of the largest contribution: sums in another order
LAYER_SAMPLE = 20  # inputs whose layers are recorded


@dataclass(frozen=True)
class TracedRound:
    """What tracing one round gives: rows for `contributions`, `inputs` and `layers`, and the first preset's trace.

    `method_seconds` is what each preset and method took, by name and scope, the median of `evaluation.repeats` turns;
    `seconds` is all that was spent. `notes` is what there is to know of methods: one that could rank nobody has a note
    and no rows.
    `lineage` is that method's trace over all rounds, and `last` the last round in which each client took part; None and
    empty where `provenance.scope` is `round`. `suspicion` is what is suspected of the clients; None: nobody asked.
    `tokens` are the rows of `tokens.parquet`, of responses by the first preset; None: they are none.
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
    suspicion: Suspicion | None = None
    tokens: pd.DataFrame | None = None


@dataclass(frozen=True)
class ChosenInputs:
    """Inputs of the test set, of which the predictions by a round's global model are traced.

    Attributes:
        selection: which they are, and what was passed over.
        inputs: `[n, …]`, as the model reads them.
        numbers: int64 `[n]`, their indices in the test set.
        labels: int64 `[n]`, true labels.
        predictions: int64 `[n]`, the classes predicted for them; of responses the topics that were said.
        seconds: what predicting the whole test set and choosing took.
        texts: what was said, of responses.
    """

    selection: Selection
    inputs: Tensor
    numbers: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    seconds: float
    texts: tuple[str, ...] = ()


def choose_inputs(
    model: nn.Module,
    test: TestData,
    holders: Mapping[int, np.ndarray],
    evaluation: Evaluation,
    seed: int,
    device: torch.device,
) -> ChosenInputs:
    """Predict the test set, and choose inputs whose label somebody holds.

    Args:
        model: with a round's global weights.
        test: the test set.
        holders: training examples by label, int `[classes]`, of each client that took part.
        evaluation: which inputs to choose, how many, and from how many examples on a client holds a label.
        seed: of the choice where there are too many.
        device: where to predict.
    """
    began = time.perf_counter()
    predictions = model_outputs(model.to(device), test.inputs, device, classes=True).argmax(1).numpy()
    labels = test.labels.numpy()
    selection = select_inputs(
        predictions,
        labels,
        holders,
        evaluation.min_examples,
        evaluation.inputs,
        evaluation.max_inputs,
        seed,
    )
    positions = selection.inputs
    return ChosenInputs(
        selection=selection,
        inputs=test.inputs[positions],
        numbers=test.indices[positions],
        labels=labels[positions],
        predictions=predictions[positions],
        seconds=time.perf_counter() - began,
    )


def case_of(
    chosen: ChosenInputs,
    model: nn.Module,
    stored: Round,
    data: FederatedData,
    fusion: Fusion,
    privacy: Privacy,
    provenance: Provenance,
    seed: int,
    device: torch.device,
    steps: Sequence[int] = (),
) -> Case:
    """The question that `trace_round` asks presets and methods: the inputs chosen of a stored round; see `Case`."""
    return Case(
        model=model,
        inputs=chosen.inputs,
        numbers=chosen.numbers,
        labels=chosen.labels,
        classes=chosen.predictions,
        stored=stored,
        form=data.form,
        fusion=fusion,
        privacy=privacy,
        provenance=provenance,
        seed=seed,
        device=device,
        steps=steps,
        label_counts={client.id: client.label_counts for client in data.clients},
        unlabelled=lambda: data.evaluated.inputs,
    )


def trace_round(
    case: Case,
    chosen: ChosenInputs,
    data: FederatedData,
    presets: Sequence[Provenance],
    rivals: Sequence[Attribution],
    lineage: LineageRound | None = None,
    repeats: int = 1,
) -> TracedRound:
    """Attribute the predictions of a round's global model for the chosen inputs by every method.

    Args:
        case: the predictions.
        chosen: the inputs that they are of.
        data: whose test set the inputs are from.
        presets: ways of tracing; the first is the run's own, of which layers and residuals are recorded.
        rivals: other methods, of which those are left out that a preset has done under the same name.
        lineage: the run's own way traces all these rounds as well; None: it does not. Both see the same inputs.
        repeats: turns of each method.
    """
    began = time.perf_counter()
    positions, number = chosen.selection.inputs, case.stored.number
    asked = attributed(case, presets, rivals, lineage, repeats) if len(positions) else Attributions()
    own = asked.traces.get((presets[0].name, "round"))
    tokens = token_rows(case, data, presets[0], own) if own is not None else None
    return TracedRound(
        number=number,
        selection=chosen.selection,
        contributions=asked.rows,
        inputs=input_frame(number, positions, chosen.predictions, own, data, chosen.texts),
        layers=layer_frame(number, case.numbers, own),
        trace=own,
        seconds=chosen.seconds + time.perf_counter() - began,
        method_seconds=asked.seconds,
        notes=asked.notes,
        lineage=asked.traces.get((presets[0].name, "lineage")),
        last={} if lineage is None else dict(zip(lineage.clients, lineage.lineage.rows.last, strict=True)),
        suspicion=asked.suspicion,
        tokens=tokens,
    )


def token_rows(case: Case, data: FederatedData, preset: Provenance, whole: Contributions) -> pd.DataFrame | None:
    """What clients pushed each token of the responses by, which add up to the trace `whole` of these; None of others.

    Raises:
        RunError: they do not add up.
    """
    if not isinstance(case.model, ResponseScore) or not isinstance(case.inputs, Tensor):
        return None
    found = trace_responses(case.model.module, case.inputs, case.stored, preset)
    apart = np.abs(found.summed() - whole.values).max()
    if apart > TOKENS_APART * np.abs(whole.values).max():
        raise RunError(f"round {case.stored.number}: contributions to tokens do not add up (they differ by {apart:g})")
    codec, texts = data.codec, list[str]()
    for number in range(len(case.numbers)):
        texts += codec.pieces(found.token[found.response == number].tolist())
    used = found.tokens.candidates
    return token_frame(
        case.stored.number,
        "round",
        found.kind,
        case.numbers[found.response],
        found.position,
        found.token,
        texts,
        [client for client, there in zip(found.tokens.clients, used, strict=True) if there],
        found.tokens.values[:, used],
    )


@dataclass(frozen=True)
class Attributions:
    """What several methods say about the same predictions.

    `rows` are those of `contributions.parquet`; `traces` those of presets, and `seconds` what each method took, by name
    and scope, the median of its turns; `notes` what there is to know of methods. A method that could rank nobody has a
    note and no rows. `suspicion` is what the method of that name found; None: it was not asked.
    """

    rows: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS)))
    traces: Mapping[tuple[str, str], Contributions] = field(default_factory=dict)
    seconds: Mapping[tuple[str, str], float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    suspicion: Suspicion | None = None


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
        spread = for_case(case, replace(preset, shards=case.provenance.shards, shard_on=case.provenance.shard_on))
        spent = []
        for _ in range(repeats):
            started = time.perf_counter()
            contributions = traced(case, spread, source, sample)
            spent.append(time.perf_counter() - started)
        seconds[preset.name, scope] = median(spent)
        traces[preset.name, scope] = contributions
        frames.append(_rows(case, preset.name, scope, spread.target, contributions))
    notes = list(dict.fromkeys(note for contributions in traces.values() for note in contributions.notes))
    suspicion: Suspicion | None = None
    for rival in rivals:
        if (rival.name, "round") in traces:
            continue
        results = [rival.attribute(case) for _ in range(repeats)]
        result = results[-1]
        suspicion = result.suspicion or suspicion
        notes += [result.note] if result.note else []
        if not result.candidates.any():
            notes.append(f"{rival.name} could rank nobody in round {case.stored.number}")
            continue
        seconds[rival.name, result.scope] = median(turn.seconds for turn in results)
        frames.append(_with_more(_rows(case, rival.name, result.scope, result.target, result), result))
    if not frames:
        return Attributions(notes=tuple(notes), suspicion=suspicion)
    return Attributions(pd.concat(frames, ignore_index=True), traces, seconds, tuple(notes), suspicion)


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
        case.stored.clients if result.clients is None else result.clients,
        result.candidates,
        result.values,
        result.rows,
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


def model_outputs(model: nn.Module, inputs: Inputs, device: torch.device, classes: bool) -> Tensor:
    """What a model makes of inputs, with the weights that it holds, on the CPU.

    `[inputs, classes]`; without `classes` all numbers that it puts out, `[inputs, numbers]`.
    """
    return torch.cat([part.cpu() for part in outputs_of(model.eval(), inputs, device, classes)])
