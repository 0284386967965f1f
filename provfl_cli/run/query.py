"""Ask about predictions of an opened federation: who pushed them, and what they would be without some clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from torch import Tensor

from ..attribution.counterfactual import logits
from ..attribution.method import Case
from ..attribution.settings import KINDS
from ..coverage import listed
from ..errors import InputError, RunError
from ..harmless import harmless, harmless_lines
from ..provenance.lineage import lineage_round
from ..provenance.outputs import by_argument
from ..provenance.targets import target_value
from ..reporting.answers import digits, percent
from ..results.answer import Agreement, Conclusion, Effect, MethodAnswer, Prediction, WhatIf
from ..store.rounds import Round
from .confirmed import concluded
from .inputs import UNKNOWN, TracedInputs
from .meaning import MSE, Meaning
from .method_answer import agreements_of, method_answer
from .open_run import OpenFederation
from .tracing import Attributions, attributed, model_outputs
from .verified import retrained_without


@dataclass(frozen=True)
class Query:
    """What to find out.

    Attributes:
        methods: names of presets and other methods; (): the run's own way of tracing.
        target: name or number of the label to explain; None: the predicted one.
        without: clients, by name or number, without which the prediction is made once more; (): none.
        verify: leave each of the best clients out, and compare with the ranking: `fusion` of the round again, `retrain`
            from the beginning, "" not at all.
        top: how many clients are shown, and left out.
        adapters: in which terms provenance traces LoRA layers, as its setting of that name; None: as the run does.
    """

    methods: tuple[str, ...] = ()
    target: str | None = None
    without: tuple[str, ...] = ()
    verify: str = ""
    top: int = 10
    adapters: str | None = None


@dataclass(frozen=True)
class AttributedPredictions:
    """A round with its predictions, and what every method says about them.

    `probabilities` are `[n, classes]`; of a model without classes what it puts out, by `OpenFederation.label_names`.
    """

    stored: Round
    case: Case
    probabilities: np.ndarray
    attributions: Attributions


def ask_one(
    opened: OpenFederation, number: int | None, inputs: TracedInputs, question: Query, console: Console
) -> Prediction:
    """Answer about a single prediction.

    Args:
        opened: the federation.
        number: of the round; None: the last one traced.
        inputs: one input.
        question: what to find out.
        console: where to show how far retraining is.

    Raises:
        InputError: a round, method, label or client that there is not.
        RunError: a stored file is damaged, or conservation fails.
    """
    asked = ask(opened, number, inputs, question)
    case, attributions, probabilities = asked.case, asked.attributions, asked.probabilities
    label, explained = int(case.labels[0]), int(case.classes[0])
    known = None if label == UNKNOWN else label
    answers = tuple(
        method_answer(opened, rows, attributions.traces.get((str(method), str(scope))), known, explained, question.top)
        for (method, scope), rows in attributions.rows.groupby(["method", "scope"], sort=False)
    )
    if not answers:
        raise RunError(f"{'; '.join(attributions.notes) or 'no method could rank anybody'}")
    kinds = [kind for kind in KINDS[::-1] if kind == "withhold" or opened.fusion is not None]
    effects: tuple[Effect, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    said: tuple[str, ...] = ()
    conclusion: Conclusion | None = None
    if question.verify:
        best = [client.client for client in answers[0].clients]
        if question.verify == "retrain":
            kind = "retrain"
            measured, said = _trained_again(opened, asked, best, console)
        else:
            kind = kinds[0]
            measured = _left_out(opened, asked, kind, best)
        losses, effects = _effects(opened, asked, kind, best, measured)
        agreements = tuple(agreements_of(opened, attributions.rows, best, losses))
        classes = opened.meaning.kind == "classes"
        names = opened.label_names
        conclusion = concluded(
            effects,
            names[int(probabilities[0].argmax())] if classes else None,
            names[explained],
            float(probabilities[0, explained]),
            percent if classes else digits,
        )
    return Prediction(
        title=inputs.names[0],
        where=str(opened.folder),
        round=asked.stored.number,
        shown=inputs.shown[0],
        label_names=opened.label_names,
        label=known,
        explained=explained,
        probabilities=probabilities[0],
        answers=answers,
        what_if=tuple(_what_if(opened, asked, kinds, question.without)) if question.without else (),
        effects=effects,
        agreements=agreements,
        notes=(
            *_notes(opened, inputs, question),
            *_unmoved(answers, opened.label_names[explained]),
            *attributions.notes,
            *said,
        ),
        doubts=_doubts(inputs, probabilities, opened.meaning.kind),
        kind=opened.meaning.kind,
        wanted=None if inputs.wanted is None or opened.meaning.target == MSE else float(inputs.wanted[0, explained]),
        conclusion=conclusion,
    )


def ask_many(opened: OpenFederation, number: int | None, inputs: TracedInputs, question: Query) -> pd.DataFrame:
    """Contributions to all predictions of `inputs`, in the columns of `contributions.parquet` and a few more.

    Beside those: `name` of the input, `explained` label, its `probability`, `label_name`, `prediction_name` and
    `explained_name`, the `text` of inputs that are some, `client_name`; `covered`, the share of the
    model's parameters that the trace accounts for, and `uncovered`, some of the others by name (null for methods that
    do not trace, and where there are none). A true label that nobody gave is null. What the traces leave out,
    and why rankings may say little, is said in the frame's `attrs["warnings"]` too. Of a model without classes `label`
    and `prediction` are null, `explained` is a name, and `value` stands in place of `probability`, with what it should
    be, `wanted`.

    Raises:
        InputError, RunError: as `ask_one`.
    """
    asked = ask(opened, number, inputs, question)
    rows = asked.attributions.rows
    if not len(rows):
        raise RunError(f"{'; '.join(asked.attributions.notes) or 'no method could rank anybody'}")
    # the numbers are unique within `inputs`
    at = pd.Series(np.arange(len(inputs.numbers)), index=inputs.numbers)[rows["input"].to_numpy()].to_numpy()
    labels = inputs.labels[at]
    traces = asked.attributions.traces
    by_trace = list(zip(rows["method"].astype(str), rows["scope"].astype(str), strict=True))
    frame = rows.assign(
        name=np.array(inputs.names, dtype=object)[at],
        label=pd.arrays.IntegerArray(labels.astype(np.int32), labels == UNKNOWN),
        **_columns(opened, inputs, asked, at),
        **_named(opened, inputs, asked, at),
        client_name=_client_names(opened, rows["client"]),
        covered=[traces[key].covered if key in traces else np.nan for key in by_trace],
        uncovered=pd.Series(
            [(listed(traces[key].uncovered) or None) if key in traces else None for key in by_trace], rows.index, "str"
        ),
    )
    left_out = dict.fromkeys(text for trace in traces.values() for text in trace.warnings)
    frame.attrs["warnings"] = [*left_out, *_doubts(inputs, asked.probabilities, opened.meaning.kind)]
    return frame


def _named(
    opened: OpenFederation, inputs: TracedInputs, asked: AttributedPredictions, at: np.ndarray
) -> dict[str, pd.Series]:
    """Labels by their names, and texts where the inputs are some, of the inputs at these positions."""
    index = asked.attributions.rows.index
    columns = dict[str, list[str | None]]()
    if opened.meaning.target is None:
        names = [harmless(name) for name in opened.label_names]
        predicted = asked.probabilities.argmax(1)
        columns["label_name"] = [None if inputs.labels[n] == UNKNOWN else names[inputs.labels[n]] for n in at]
        columns["prediction_name"] = [names[predicted[n]] for n in at]
        columns["explained_name"] = [names[asked.case.classes[n]] for n in at]
    if all(isinstance(shown, str) for shown in inputs.shown):
        columns["text"] = [harmless_lines(str(inputs.shown[n])) for n in at]
    return {name: pd.Series(values, index, "str") for name, values in columns.items()}


def _columns(
    opened: OpenFederation, inputs: TracedInputs, asked: AttributedPredictions, at: np.ndarray
) -> dict[str, Any]:
    """What was predicted and explained, of the inputs at these positions."""
    explained = asked.case.classes[at]
    values = asked.probabilities[at, explained]
    if opened.meaning.target is None:
        predicted = asked.probabilities.argmax(1)[at].astype(np.int32)
        return {"prediction": predicted, "explained": explained.astype(np.int32), "probability": values}
    wanted = None if opened.meaning.target == MSE else inputs.wanted
    return {
        "prediction": pd.arrays.IntegerArray(np.zeros(len(at), dtype=np.int32), np.ones(len(at), dtype=bool)),
        "explained": pd.Series([harmless(opened.label_names[number]) for number in explained]).astype("str").to_numpy(),
        "value": values,
        "wanted": np.full(len(at), np.nan) if wanted is None else wanted[at, explained],
    }


def _client_names(opened: OpenFederation, clients: pd.Series) -> pd.Series:
    """What the clients are called; harmless already, since a text column takes no half characters, and JSON does."""
    return clients.map(lambda client: harmless(opened.name_of(client)), na_action="ignore").astype("str")


def ask(opened: OpenFederation, number: int | None, inputs: TracedInputs, question: Query) -> AttributedPredictions:
    """Predict all of `inputs` with a round's global model, and attribute the predictions by every method.

    Raises:
        InputError, RunError: as `ask_one`.
    """
    presets, rivals = opened.methods(question.methods)
    if question.adapters is not None:
        presets = [replace(preset, adapters=question.adapters) for preset in presets]
    stored = opened.round(number)
    opened.model.to(opened.device)
    scope = opened.provenance.scope
    whose = opened.load(stored)
    outputs = _outputs(opened, inputs)
    probabilities = _read(opened.meaning, outputs, inputs.wanted)
    classes = probabilities.argmax(1)
    if opened.meaning.number is not None:  # with which the federation was opened
        classes = np.full_like(classes, opened.meaning.number)
    elif question.target is not None:
        classes = np.full_like(classes, opened.label(question.target))
    case = opened.case(stored, inputs, classes)
    own = bool(presets) and presets[0] == opened.provenance
    lineage = lineage_round(stored) if own and scope != "round" and stored.lineage_rows is not None else None
    attributions = attributed(case, presets, rivals, lineage)
    if whose:
        attributions = replace(attributions, notes=(whose, *attributions.notes))
    return AttributedPredictions(stored, case, probabilities, attributions)


def _read(meaning: Meaning, outputs: Tensor, wanted: np.ndarray | None) -> np.ndarray:
    """What people read of outputs: probabilities `[n, classes]`, the numbers themselves, or their error `[n, 1]`."""
    numbers = outputs.double().cpu()
    if meaning.target is None:
        return numbers.softmax(1).numpy()
    if meaning.target != MSE:
        return numbers.numpy()
    if wanted is None:
        raise InputError(
            "--target mse: what the model should put out for this input is not known: choose by --input INDEX"
        )
    return target_value(MSE, numbers, torch.from_numpy(wanted))[:, None].numpy()


def _outputs(opened: OpenFederation, inputs: TracedInputs) -> Tensor:
    """What the loaded model makes of the inputs; RunError where it does not take them."""
    try:
        return model_outputs(opened.model, inputs.inputs, opened.device, opened.meaning.target is None)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shapes = ", ".join(
            f"{name} {list(tensor.shape[1:])}".strip() for name, tensor in by_argument(inputs.inputs).items()
        )
        raise RunError(
            f"{opened.folder}: its model does not take an input of the shape {shapes} ({type(error).__name__} in its "
            "forward): what the model reads is not what the run recorded, or the model is another"
        ) from error


def _what_if(
    opened: OpenFederation, asked: AttributedPredictions, kinds: Sequence[str], without: Sequence[str]
) -> Iterator[WhatIf]:
    """The prediction without some clients."""
    stored = asked.stored
    numbers, removed = left_out(opened, stored, without)
    names = tuple(opened.name_of(number) for number in numbers)
    for kind in kinds:
        if len(removed) == len(stored.clients):
            yield WhatIf(kind, names, None, "nobody is left: these are all clients of the round")
            continue
        probabilities = _without(opened.meaning, asked.case, kind, [removed])[0]
        reason = "" if probabilities is not None else "the fusion does not work with so few clients"
        yield WhatIf(kind, names, probabilities, reason)


def left_out(opened: OpenFederation, stored: Round, without: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of clients by their names or numbers, ascending, and their positions in a round.

    Raises:
        InputError: there is no such client, or it took no part in the round.
    """
    numbers = tuple(sorted({opened.client(word) for word in without}))
    for number in numbers:
        if number not in stored.clients:
            there = ", ".join(opened.name_of(client) for client in stored.clients)
            raise InputError(
                f"--without {opened.name_of(number)}: did not take part in round {stored.number}; who did: {there}"
            )
    return numbers, tuple(stored.clients.index(number) for number in numbers)


def _without(meaning: Meaning, case: Case, kind: str, removed: Sequence[tuple[int, ...]]) -> list[np.ndarray | None]:
    """Probabilities `[classes]`, or values, of the one input of `case` without each of the coalitions."""
    wanted = None if case.wanted is None else case.wanted.numpy()
    return [None if output is None else _read(meaning, output, wanted)[0] for output in logits(case, kind, removed)]


def _left_out(
    opened: OpenFederation, asked: AttributedPredictions, kind: str, best: Sequence[int]
) -> dict[int, np.ndarray]:
    """Probabilities, or values, without each of the clients that took part in the round, where there is a model."""
    case, stored = asked.case, asked.stored
    there = [client for client in best if client in stored.clients]
    rows = _without(opened.meaning, case, kind, [(stored.clients.index(client),) for client in there])
    return {client: row for client, row in zip(there, rows, strict=True) if row is not None}


def _trained_again(
    opened: OpenFederation, asked: AttributedPredictions, best: Sequence[int], console: Console
) -> tuple[dict[int, np.ndarray], tuple[str, ...]]:
    """Probabilities of a federation trained again without each of the clients, and what there is to say of that."""
    without = retrained_without(opened, asked.case, best, console)
    read = {
        client: _read(opened.meaning, torch.from_numpy(row)[None], None)[0] for client, row in without.logits.items()
    }
    return read, without.notes


def _effects(
    opened: OpenFederation,
    asked: AttributedPredictions,
    kind: str,
    best: Sequence[int],
    measured: Mapping[int, np.ndarray],
) -> tuple[dict[str, np.ndarray], tuple[Effect, ...]]:
    """What it costs what is explained to be without each of the clients; by kind `[clients]`, and for people."""
    explained = int(asked.case.classes[0])
    before = float(asked.probabilities[0, explained])
    shares = np.array([float(measured[client][explained]) if client in measured else np.nan for client in best])
    if opened.meaning.target is not None:
        losses = before - shares
    else:
        tiny = np.finfo(float).tiny
        losses = np.log(max(before, tiny)) - np.log(np.maximum(shares, tiny))
    names = opened.label_names
    effects = tuple(
        Effect(
            opened.name_of(client),
            {kind: float(losses[position])},
            {kind: float(shares[position])},
            {kind: names[int(measured[client].argmax())]} if client in measured else {},
        )
        for position, client in enumerate(best)
    )
    return {kind: losses}, effects


def _doubts(inputs: TracedInputs, probabilities: np.ndarray, kind: str = "classes") -> tuple[str, ...]:
    """Why the rankings of these inputs may say little: what they look like, and predictions that are little but chance.

    `probabilities` are `[n, classes]`. Near chance is a largest one below 1.5 times that of guessing, and less than a
    tenth of the way from guessing to certainty.
    """
    if not inputs.new or kind != "classes":
        return inputs.warnings
    chance = 1 / probabilities.shape[1]
    guessed = np.flatnonzero(probabilities.max(1) < min(1.5 * chance, chance + 0.1 * (1 - chance))).tolist()
    if not guessed:
        return inputs.warnings
    first = guessed[0]
    which = "" if len(inputs.names) == 1 else f"{len(guessed):,} of {len(inputs.names):,} predictions, such as that of "
    said = (
        f"{which}{inputs.names[first]}: the prediction is near chance ({probabilities[first].max():.1%}, guessing has "
        f"{chance:.1%}): its ranking explains a guess"
    )
    return (*inputs.warnings, said)


def _unmoved(answers: Sequence[MethodAnswer], label: str) -> Iterator[str]:
    """Methods that explain a logit which nobody can move: that of class 0, where a model has a single one."""
    names = [answer.method for answer in answers if answer.target == "logit" and not answer.total]
    if names:
        yield (
            f"{', '.join(names)}: the logit of {label} depends on no client, as that of the first of two classes where "
            "a model has a single logit: methods with the target centred or margin, such as faithful, explain it"
        )


def _notes(opened: OpenFederation, inputs: TracedInputs, question: Query) -> Iterator[str]:
    """What a reader has to know."""
    yield from opened.notes
    yield from inputs.notes
    if inputs.chosen:
        yield f"{inputs.names[0]} is the first there is; another: --input INDEX"
    ambiguity = None if question.target is None else opened.classes.ambiguity(question.target)
    if ambiguity is not None:
        yield f"--target {ambiguity}"
    if not opened.label_counts:
        yield (
            "clients' label counts are not known: the run is of a time when they were not kept"
            if opened.settings is not None
            else "clients' label counts are not known to the server"
        )
    if opened.fusion is None and (question.without or question.verify):
        yield "how to fuse these rounds again is not recorded, so clients are withheld: the others' shares stay"
