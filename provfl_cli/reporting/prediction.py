"""One traced prediction, for the terminal and as JSON: who pushed it, through which layers, what if they had not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..harmless import harmless
from ..results.answer import OF_MODEL, MethodAnswer, Prediction, RankedClient
from .console import heading
from .drawing import Picture, bar
from .rankings import clients_table
from .texts import Excerpt

LABELS_SHOWN = 3
LAYERS_SHOWN = 8
PAIRS_SHOWN = 5


def show(one: Prediction) -> RenderableType:
    """All of it, one part below the other."""
    parts: list[RenderableType] = [Text(harmless(f"warning: {line}"), style="bold yellow") for line in one.warnings]
    parts.append(_head(one))
    for told in one.told:
        parts += _told(one, told)
    if one.what_if:
        parts += [heading("What if"), _what_if(one)]
    if one.effects:
        parts += [heading("Does it hold? Each of the top clients left out"), _effects(one), *_agreements(one)]
    parts += [Text(), *(Text(harmless(note), style="dim") for note in one.notes)] if one.notes else []
    return Group(*parts)


def _head(one: Prediction) -> RenderableType:
    """The input, beside it (a text: above) what it is and what the model makes of it."""
    names = [harmless(name) for name in one.label_names]
    predicted = one.predicted
    lines = [
        Text.assemble((one.title, "bold"), (f"  {one.where}, round {one.round}", "dim")),
        Text.assemble("predicted ", (names[predicted], "bold"), f"  {_percent(one.probabilities[predicted])}"),
    ]
    if one.label is None:
        lines.append(Text("true label not known", style="dim"))
    elif one.label == predicted:
        lines.append(Text("which is right", style="green"))
    else:
        share = _percent(one.probabilities[one.label])
        lines.append(Text.assemble("labelled  ", (names[one.label], "red"), f"  {share}: the prediction is wrong"))
    if one.explained != predicted:
        share = _percent(one.probabilities[one.explained])
        lines.append(Text(f"explained {names[one.explained]}  {share}, as asked by --target", style="yellow"))
    mentioned = {predicted, one.label, one.explained}
    order = [label for label in np.argsort(-one.probabilities).tolist() if label not in mentioned]
    others = ", ".join(f"{names[label]} {_percent(one.probabilities[label])}" for label in order[:LABELS_SHOWN])
    if others:
        lines.append(Text(f"next: {others}", style="dim"))
    if isinstance(one.shown, np.ndarray):
        beside = Table.grid(padding=(0, 2))
        beside.add_row(Picture(one.shown, columns=20), Group(*lines))
        return beside
    return Group(*lines) if one.shown is None else Group(Excerpt(one.shown, lines=4), *lines)


def _told(one: Prediction, told: MethodAnswer) -> list[RenderableType]:
    """One method's ranking, what is beside it, and the layers."""
    whom = "over all rounds" if told.scope == "lineage" else "this round"
    name = harmless(one.label_names[one.explained])
    parts: list[RenderableType] = [
        heading(f"Who pushed it towards {name}, {whom} ({told.method})"),
        clients_table(told.clients, (f"examples of {name}", f"of {_true(one)}")),
    ]
    lines = [f"top {len(told.clients)} of {told.candidates} clients"] if len(told.clients) < told.candidates else []
    if told.unused:
        lines.append(f"{told.unused} that fusion did not use")
    everything = told.total + sum(map(abs, told.rest.values()))
    for kind, value in told.rest.items():
        if not value:
            continue
        share = _percent(abs(value) / everything)
        lines.append(f"not from these clients: {kind} {value:+.3g} ({share} of all pushing)")
    if lines:
        parts.append(Text("; ".join(lines), style="dim"))
    if told.layers:
        parts += [Text(), _layers(told)]
    return parts


def _layers(told: MethodAnswer) -> RenderableType:
    """The layers through which the best client's part went, the largest first."""
    best = told.clients[0]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("through layer", overflow="fold")
    table.add_column(f"client {harmless(best.name or str(best.client))}", no_wrap=True)
    table.add_column("all clients", justify="right", no_wrap=True)
    table.add_column("active neurons", justify="right", no_wrap=True)
    ordered = sorted(told.layers, key=lambda layer: -abs(layer.best))
    largest, common = abs(ordered[0].best), _common([layer.name for layer in told.layers])
    for layer in ordered[:LAYERS_SHOWN]:
        length = abs(layer.best) / largest if largest else 0.0
        colour = "cyan" if layer.best >= 0 else "red"
        active = f"{layer.active:,} of {layer.neurons:,}" if layer.masked else f"all {layer.neurons:,}"
        table.add_row(
            harmless(layer.name[common:]) or OF_MODEL,
            Text.assemble(f"{layer.best:>9.3g} ", (bar(length, 8), colour)),
            f"{layer.contribution:.3g}",
            active,
        )
    rest = ordered[LAYERS_SHOWN:]
    if rest:
        table.add_row(
            f"{len(rest)} more",
            f"{sum(layer.best for layer in rest):>9.3g}",
            f"{sum(layer.contribution for layer in rest):.3g}",
            "",
            style="dim",
        )
    return table


def _common(names: Sequence[str]) -> int:
    """Characters of the modules that all these names begin with: they tell nothing."""
    modules = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return sum(len(same[0]) + 1 for same in takewhile(lambda parts: len(set(parts)) == 1, modules))


def _what_if(one: Prediction) -> RenderableType:
    """Predictions before and after, one row each."""
    names = [harmless(name) for name in one.label_names]
    explained = one.explained
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in ("", "prediction", f"probability of {names[explained]}", ""):
        table.add_column(name, overflow="fold")
    before = one.probabilities
    table.add_row("as it was", f"{names[one.predicted]}  {_percent(before.max())}", _percent(before[explained]), "")
    for what in one.what_if:
        who = ", ".join(map(harmless, what.clients))
        about = f"without {who}" if what.kind == "refuse" else f"with {who} withheld"
        if what.probabilities is None:
            table.add_row(about, "–", "–", what.reason)
            continue
        now = int(what.probabilities.argmax())
        changed = Text("another prediction", style="yellow") if now != one.predicted else Text("the same", style="dim")
        table.add_row(
            about,
            f"{names[now]}  {_percent(what.probabilities[now])}",
            _percent(what.probabilities[explained]),
            changed,
        )
    return Group(
        table,
        Text("without: fused again from the others alone; withheld: the others' shares stay as they were", style="dim"),
    )


def _effects(one: Prediction) -> RenderableType:
    """What each client's absence costs."""
    kinds = list(one.effects[0].losses)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("client", justify="right", overflow="fold")
    for kind in kinds:
        table.add_column("without" if kind == "refuse" else "withheld", no_wrap=True)
        table.add_column("cost", no_wrap=True)
    finite = [abs(loss) for effect in one.effects for loss in effect.losses.values() if np.isfinite(loss)]
    largest = max(finite, default=0.0)
    for effect in one.effects:
        cells: list[RenderableType] = []
        for kind in kinds:
            loss = effect.losses[kind]
            if not np.isfinite(loss):
                cells += ["–", ""]
                continue
            length, colour = (abs(loss) / largest if largest else 0.0), "cyan" if loss >= 0 else "red"
            cells += [_percent(effect.probabilities[kind]), Text.assemble(f"{loss:>+9.3g} ", (bar(length, 8), colour))]
        table.add_row(harmless(effect.client), *cells)
    name, share = harmless(one.label_names[one.explained]), _percent(one.probabilities[one.explained])
    below = f"probability of {name}, {share} with all clients; cost: what its log-probability loses"
    return Group(table, Text(below, style="dim"))


def _agreements(one: Prediction) -> list[RenderableType]:
    """In words, for each method and each way of leaving out."""
    lines: list[RenderableType] = [Text()]
    for each in one.agreements:
        method = f"{each.method} (all rounds)" if each.scope == "lineage" else each.method
        if not np.isfinite(each.correlation):
            text = "no rank correlation: nothing to tell apart, or no model without a client"
            lines.append(Text(f"{method}, {each.kind}: {text}", style="dim"))
            continue
        good = not each.against
        verdict = "agrees" if good else "agrees in part" if each.correlation > 0 else "does not agree"
        lines.append(
            Text.assemble(
                f"{method}, {each.kind}: ",
                (verdict, "green" if good else "yellow" if each.correlation > 0 else "red"),
                f", rank correlation {each.correlation:.2f}",
                f", {each.pairs - len(each.against)} of {each.pairs} pairs in the same order",
            )
        )
        if each.against:
            pairs = "; ".join(f"{harmless(a)} above {harmless(b)}" for a, b in each.against[:PAIRS_SHOWN])
            more = f" and {len(each.against) - PAIRS_SHOWN} more" if len(each.against) > PAIRS_SHOWN else ""
            lines.append(Text(f"  ranked the other way around: {pairs}{more}", style="dim"))
    return lines


def _true(one: Prediction) -> str:
    return "" if one.label is None else harmless(one.label_names[one.label])


def _percent(value: Any) -> str:
    """A share, so that what is small is still told from nothing."""
    number = float(value)
    if 0 < number < 0.001:
        return f"{number:.1e}"
    return f"{number:.1%}" if number < 0.9995 else f"{number:.3%}"


def as_json(one: Prediction) -> dict[str, Any]:
    """The same for scripts: plain values, of all labels and of the layers too."""
    names = one.label_names
    return {
        "warnings": list(one.warnings),
        "input": one.title,
        "run": one.where,
        "round": one.round,
        "label": None if one.label is None else names[one.label],
        "prediction": names[one.predicted],
        "explained": names[one.explained],
        "probabilities": dict(zip(names, one.probabilities.tolist(), strict=True)),
        "text": one.shown if isinstance(one.shown, str) else None,
        "methods": [_told_json(one, told) for told in one.told],
        "what_if": [
            {
                "kind": what.kind,
                "without": list(what.clients),
                "prediction": None if what.probabilities is None else names[int(what.probabilities.argmax())],
                "probabilities": None
                if what.probabilities is None
                else dict(zip(names, what.probabilities.tolist(), strict=True)),
                **({"reason": what.reason} if what.reason else {}),
            }
            for what in one.what_if
        ],
        "verified": [
            {"client": each.client, "cost": dict(each.losses), "probability": dict(each.probabilities)}
            for each in one.effects
        ],
        "agreement": [
            {
                "method": each.method,
                "scope": each.scope,
                "kind": each.kind,
                "rank_correlation": each.correlation,
                "pairs": each.pairs,
                "other_way_around": [list(pair) for pair in each.against],
            }
            for each in one.agreements
        ],
        "notes": list(one.notes),
    }


def _told_json(one: Prediction, told: MethodAnswer) -> dict[str, Any]:
    return {
        "method": told.method,
        "scope": told.scope,
        "target": told.target,
        "covered": told.covered,
        "uncovered": dict(told.uncovered),
        "residual": told.residual,
        "candidates": told.candidates,
        "clients": [_client_json(one, client) for client in told.clients],
        "rest": dict(told.rest),
        "layers": [
            {
                "layer": layer.name or OF_MODEL,
                "contribution": layer.contribution,
                "of_best_client": layer.best,
                "active_neurons": layer.active,
                "neurons": layer.neurons,
            }
            for layer in told.layers
        ],
    }


def _client_json(one: Prediction, client: RankedClient) -> dict[str, Any]:
    counts: dict[str, int] = {}
    if client.examples is not None:
        counts[one.label_names[one.explained]] = client.examples
    if client.also is not None and one.label is not None:
        counts[one.label_names[one.label]] = client.also
    return {
        "client": client.client,
        "name": client.name or str(client.client),
        "rank": client.rank,
        "tie": client.tie,
        "contribution": client.contribution,
        "share": client.share,
        "examples": counts,
        "faulty": client.faulty,
    }
