"""One traced prediction, for the terminal and as JSON: who pushed it, through which layers, what if they had not."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..harmless import harmless
from ..results.answer import Prediction, WhatIf
from .answers import agreement_lines, agreements_json, answer_json, answer_parts, conclusion_lines, digits, percent
from .console import heading
from .drawing import Picture, bars_from_zero
from .texts import Excerpt

KINDS = {"refuse": "without", "withhold": "withheld", "retrain": "trained without"}  # as headings call them
LABELS_SHOWN = 3
WITHOUT = "without: fused again from the others alone; withheld: the others' shares stay as they were"


def show(prediction: Prediction) -> RenderableType:
    """All of it, one part below the other."""
    parts: list[RenderableType] = [
        Text(harmless(f"warning: {line}"), style="bold yellow") for line in prediction.warnings
    ]
    parts.append(_head(prediction))
    name = harmless(prediction.label_names[prediction.explained])
    what = f"it towards {name}" if prediction.kind == "classes" else f"{name} up"
    headings = (f"examples of {name}", f"of {_true(prediction)}")
    for answer in prediction.answers:
        parts += answer_parts(answer, what, headings)
    if prediction.what_if:
        parts += [heading("What if"), _what_if(prediction)]
    if prediction.effects:
        parts += [
            heading(f"Does it hold? {_how_left_out(prediction)}"),
            *conclusion_lines(prediction.conclusion),
            _effects(prediction),
            *agreement_lines(prediction.agreements),
        ]
    parts += [Text(), *(Text(harmless(note), style="dim") for note in prediction.notes)] if prediction.notes else []
    return Group(*parts)


def _head(prediction: Prediction) -> RenderableType:
    """The input, beside it (a text: above) what it is and what the model makes of it."""
    title = Text.assemble((prediction.title, "bold"), (f"  {prediction.where}, round {prediction.round}", "dim"))
    lines = [title, *(_classified(prediction) if prediction.kind == "classes" else _valued(prediction))]
    if isinstance(prediction.shown, np.ndarray):
        beside = Table.grid(padding=(0, 2))
        beside.add_row(Picture(prediction.shown, columns=20), Group(*lines))
        return beside
    return Group(*lines) if prediction.shown is None else Group(Excerpt(prediction.shown, lines=4), *lines)


def _valued(prediction: Prediction) -> list[Text]:
    """What a model without classes makes of the input."""
    names, values = [harmless(name) for name in prediction.label_names], prediction.probabilities
    lines = [Text.assemble((names[prediction.explained], "bold"), f" {digits(prediction.value)}")]
    if prediction.kind == "labels":
        there = prediction.value > 0
        lines[0].append(": there, its logit is above 0" if there else ": not there, its logit is not above 0")
        if prediction.wanted is not None:
            right = bool(prediction.wanted) == there
            said = "there" if prediction.wanted else "not there"
            lines.append(Text(f"labelled  {said}, which is {'right' if right else 'not'}", "green" if right else "red"))
    elif prediction.wanted is not None:
        lines.append(Text(f"should be {digits(prediction.wanted)}"))
    order = [number for number in np.argsort(-values, kind="stable").tolist() if number != prediction.explained]
    if others := ", ".join(f"{names[number]} {digits(values[number])}" for number in order[:LABELS_SHOWN]):
        more = len(order) - LABELS_SHOWN
        lines.append(Text(f"others: {others}{f' and {more} more' if more > 0 else ''}", style="dim"))
    return lines


def _classified(prediction: Prediction) -> list[Text]:
    """The predicted class, the true one, and the next."""
    names = [harmless(name) for name in prediction.label_names]
    predicted = prediction.predicted
    lines = [
        Text.assemble("predicted ", (names[predicted], "bold"), f"  {percent(prediction.probabilities[predicted])}"),
    ]
    if prediction.label is None:
        lines.append(Text("true label not known", style="dim"))
    elif prediction.label == predicted:
        lines.append(Text("which is right", style="green"))
    else:
        share = percent(prediction.probabilities[prediction.label])
        lines.append(
            Text.assemble("labelled  ", (names[prediction.label], "red"), f"  {share}: the prediction is wrong")
        )
    if prediction.explained != predicted:
        share = percent(prediction.probabilities[prediction.explained])
        lines.append(Text(f"explained {names[prediction.explained]}  {share}, as asked by --target", style="yellow"))
    mentioned = {predicted, prediction.label, prediction.explained}
    order = [label for label in np.argsort(-prediction.probabilities).tolist() if label not in mentioned]
    others = ", ".join(f"{names[label]} {percent(prediction.probabilities[label])}" for label in order[:LABELS_SHOWN])
    if others:
        lines.append(Text(f"next: {others}", style="dim"))
    return lines


def _what_if(prediction: Prediction) -> RenderableType:
    """Predictions before and after, one row each."""
    names = [harmless(name) for name in prediction.label_names]
    explained = prediction.explained
    if prediction.kind != "classes":
        return _other_values(prediction)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in ("", "prediction", f"probability of {names[explained]}", ""):
        table.add_column(name, overflow="fold")
    before = prediction.probabilities
    table.add_row(
        "as it was", f"{names[prediction.predicted]}  {percent(before.max())}", percent(before[explained]), ""
    )
    for what in prediction.what_if:
        about = _about(what)
        if what.probabilities is None:
            table.add_row(about, "–", "–", what.reason)
            continue
        now = int(what.probabilities.argmax())
        changed = (
            Text("another prediction", style="yellow") if now != prediction.predicted else Text("the same", style="dim")
        )
        table.add_row(
            about,
            f"{names[now]}  {percent(what.probabilities[now])}",
            percent(what.probabilities[explained]),
            changed,
        )
    return Group(table, Text(WITHOUT, style="dim"))


def _about(what: WhatIf) -> str:
    who = ", ".join(map(harmless, what.clients))
    return f"without {who}" if what.kind == "refuse" else f"with {who} withheld"


def _other_values(prediction: Prediction) -> RenderableType:
    """The value explained before and after, one row each."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in ("", harmless(prediction.label_names[prediction.explained]), "change", ""):
        table.add_column(name, overflow="fold")
    table.add_row("as it was", digits(prediction.value), "", "")
    for what in prediction.what_if:
        if what.probabilities is None:
            table.add_row(_about(what), "–", "–", what.reason)
            continue
        now = float(what.probabilities[prediction.explained])
        table.add_row(_about(what), digits(now), f"{now - prediction.value:+.3g}", "")
    return Group(table, Text(WITHOUT, style="dim"))


def _how_left_out(prediction: Prediction) -> str:
    again = "retrain" in prediction.effects[0].losses
    return "Trained again without each of the top clients" if again else "Each of the top clients left out"


def _effects(prediction: Prediction) -> RenderableType:
    """What each client's absence costs."""
    kinds = list(prediction.effects[0].losses)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("client", justify="right", overflow="fold")
    for kind in kinds:
        table.add_column(KINDS[kind], no_wrap=True)
        table.add_column("cost", no_wrap=True)
    classes = prediction.kind == "classes"
    if classes:
        table.add_column("prediction", overflow="fold")
    bars = iter(bars_from_zero([effect.losses[kind] for effect in prediction.effects for kind in kinds], 8))
    shown = percent if prediction.kind == "classes" else digits
    for effect in prediction.effects:
        cells: list[RenderableType] = []
        for kind in kinds:
            loss, bar = effect.losses[kind], next(bars)
            if not np.isfinite(loss):
                cells += ["–", ""]
                continue
            colour = "cyan" if loss >= 0 else "red"
            cells += [shown(effect.probabilities[kind]), Text.assemble(f"{loss:>+9.3g} ", (bar, colour))]
        if classes:
            now = next(iter(effect.predictions.values()), "")
            changed = now not in ("", prediction.label_names[prediction.predicted])
            cells.append(Text(harmless(now), style="yellow" if changed else "dim"))
        table.add_row(harmless(effect.client), *cells)
    name, before = harmless(prediction.label_names[prediction.explained]), shown(prediction.value)
    below = f"{name}, {before} with all clients; cost: what it loses"
    if classes:
        below = f"probability of {name}, {before} with all clients; cost: what its log-probability loses"
    return Group(table, Text(below, style="dim"))


def _true(prediction: Prediction) -> str:
    return "" if prediction.label is None else harmless(prediction.label_names[prediction.label])


def as_json(prediction: Prediction) -> dict[str, Any]:
    """The same for scripts: plain values, of all labels and of the layers too."""
    names, classes = prediction.label_names, prediction.kind == "classes"
    kept = "probabilities" if classes else "values"
    also = None if prediction.label is None else names[prediction.label]
    return {
        "warnings": list(prediction.warnings),
        "input": prediction.title,
        "run": prediction.where,
        "round": prediction.round,
        "label": also,
        "prediction": names[prediction.predicted] if classes else None,
        "explained": names[prediction.explained],
        kept: dict(zip(names, prediction.probabilities.tolist(), strict=True)),
        **({} if classes else {"value": prediction.value, "wanted": prediction.wanted}),
        "text": prediction.shown if isinstance(prediction.shown, str) else None,
        "methods": [answer_json(answer, names[prediction.explained], also) for answer in prediction.answers],
        "what_if": [
            {
                "kind": what.kind,
                "without": list(what.clients),
                "prediction": None
                if what.probabilities is None or not classes
                else names[int(what.probabilities.argmax())],
                kept: None
                if what.probabilities is None
                else dict(zip(names, what.probabilities.tolist(), strict=True)),
                **({"reason": what.reason} if what.reason else {}),
            }
            for what in prediction.what_if
        ],
        "verified": [
            {
                "client": effect.client,
                "cost": dict(effect.losses),
                **({"prediction": dict(effect.predictions)} if classes else {}),
                "probability" if classes else "value": dict(effect.probabilities),
            }
            for effect in prediction.effects
        ],
        "confirmed": None if prediction.conclusion is None else prediction.conclusion.confirmed,
        "conclusion": None if prediction.conclusion is None else prediction.conclusion.sentence,
        "agreement": agreements_json(prediction.agreements),
        "notes": list(prediction.notes),
    }
