"""What a method says of a prediction or a response: the ranking, what stands beside it, the layers; and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..harmless import harmless
from ..results.answer import OF_MODEL, Agreement, Conclusion, MethodAnswer, RankedClient
from .console import heading
from .drawing import bars_from_zero
from .rankings import SHARE, clients_table

LAYERS_SHOWN = 8
PAIRS_SHOWN = 5
AGREES_WITH = {
    "refuse": "fused again",
    "withhold": "withheld",
    "retrain": "trained again",
}  # what a ranking is held against


def answer_parts(answer: MethodAnswer, what: str, headings: tuple[str, str] = ("examples", "")) -> list[RenderableType]:
    """One method's ranking, what is beside it, and the layers.

    `what` the clients pushed, for the heading; `headings` as those of `clients_table`.
    """
    whom = "over all rounds" if answer.scope == "lineage" else "this round"
    parts: list[RenderableType] = [
        heading(f"Who pushed {what}, {whom} ({answer.method})"),
        clients_table(answer.clients, headings),
    ]
    lines = (
        [f"top {len(answer.clients)} of {answer.candidates} clients"] if len(answer.clients) < answer.candidates else []
    )
    if answer.unused:
        lines.append(f"{answer.unused} that fusion did not use")
    everything = answer.total + sum(map(abs, answer.rest.values()))
    for kind, value in answer.rest.items():
        if not value:
            continue
        share = percent(abs(value) / everything)
        lines.append(f"not from these clients: {kind} {value:+.3g} ({share} of all pushing)")
    parts.append(Text("; ".join([SHARE, *lines]), style="dim"))
    if answer.layers:
        parts += [Text(), layers_table(answer)]
    return parts


def layers_table(answer: MethodAnswer) -> RenderableType:
    """The layers through which the best client's part went, the largest first."""
    best = answer.clients[0]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("through layer", overflow="fold")
    table.add_column(f"client {harmless(best.name or str(best.client))}", no_wrap=True)
    table.add_column("all clients", justify="right", no_wrap=True)
    table.add_column("active neurons", justify="right", no_wrap=True)
    ordered = sorted(answer.layers, key=lambda layer: -abs(layer.best))
    common, shown = _common([layer.name for layer in answer.layers]), ordered[:LAYERS_SHOWN]
    for layer, bar in zip(shown, bars_from_zero([layer.best for layer in shown], 8), strict=True):
        colour = "cyan" if layer.best >= 0 else "red"
        active = f"{layer.active:,} of {layer.neurons:,}" if layer.masked else f"all {layer.neurons:,}"
        table.add_row(
            harmless(layer.name[common:]) or OF_MODEL,
            Text.assemble(f"{layer.best:>9.3g} ", (bar, colour)),
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


def conclusion_lines(conclusion: Conclusion | None) -> list[RenderableType]:
    """Whether the first of the ranking is the one, in a sentence."""
    if conclusion is None:
        return []
    colour = {True: "bold green", False: "bold yellow", None: "bold"}[conclusion.confirmed]
    return [Text(harmless(conclusion.sentence), style=colour), Text()]


def agreement_lines(agreements: Sequence[Agreement]) -> list[RenderableType]:
    """In words, for each method and each way of leaving out."""
    lines: list[RenderableType] = [Text()]
    for agreement in agreements:
        method = f"{agreement.method} (all rounds)" if agreement.scope == "lineage" else agreement.method
        if not np.isfinite(agreement.correlation):
            text = "no rank correlation: nothing to tell apart, or no model without a client"
            if agreement.clients == 1:
                text = "only one client matters"
            lines.append(Text(f"{method}, {AGREES_WITH.get(agreement.kind, agreement.kind)}: {text}", style="dim"))
            continue
        good = not agreement.against
        verdict = "agrees" if good else "agrees in part" if agreement.correlation > 0 else "does not agree"
        lines.append(
            Text.assemble(
                f"{method}, {AGREES_WITH.get(agreement.kind, agreement.kind)}: ",
                (verdict, "green" if good else "yellow" if agreement.correlation > 0 else "red"),
                f", rank correlation {agreement.correlation:.2f}",
                f" of the {agreement.clients} clients that matter" if agreement.clients else "",
                f", {agreement.pairs - len(agreement.against)} of {agreement.pairs} pairs in the same order",
            )
        )
        if agreement.against:
            pairs = "; ".join(f"{harmless(a)} above {harmless(b)}" for a, b in agreement.against[:PAIRS_SHOWN])
            more = f" and {len(agreement.against) - PAIRS_SHOWN} more" if len(agreement.against) > PAIRS_SHOWN else ""
            lines.append(Text(f"  ranked the other way around: {pairs}{more}", style="dim"))
    return lines


def digits(value: Any) -> str:
    """Four digits of it."""
    return f"{float(value):.4g}"


def percent(value: Any) -> str:
    """A share, so that what is small is still told from nothing."""
    share = float(value)
    if 0 < share < 0.001:
        return f"{share:.1e}"
    return f"{share:.1%}" if share < 0.9995 else f"{share:.3%}"


def answer_json(answer: MethodAnswer, label: str | None = None, also: str | None = None) -> dict[str, Any]:
    """The same for scripts. `label`, `also`: whose examples `RankedClient.examples` and `also` count."""
    return {
        "method": answer.method,
        "scope": answer.scope,
        "target": answer.target,
        "covered": answer.covered,
        "uncovered": dict(answer.uncovered),
        "residual": answer.residual,
        "candidates": answer.candidates,
        "clients": [_client_json(client, label, also) for client in answer.clients],
        "rest": dict(answer.rest),
        "layers": [
            {
                "layer": layer.name or OF_MODEL,
                "contribution": layer.contribution,
                "of_best_client": layer.best,
                "active_neurons": layer.active,
                "neurons": layer.neurons,
            }
            for layer in answer.layers
        ],
    }


def _client_json(client: RankedClient, label: str | None, also: str | None) -> dict[str, Any]:
    counts: dict[str, int] = {}
    if client.examples is not None and label is not None:
        counts[label] = client.examples
    if client.also is not None and also is not None:
        counts[also] = client.also
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


def agreements_json(agreements: Sequence[Agreement]) -> list[dict[str, Any]]:
    """How rankings fit what was measured, for scripts."""
    return [
        {
            "method": agreement.method,
            "scope": agreement.scope,
            "kind": agreement.kind,
            "rank_correlation": agreement.correlation,
            "clients": agreement.clients,
            "pairs": agreement.pairs,
            "other_way_around": [list(pair) for pair in agreement.against],
        }
        for agreement in agreements
    ]
