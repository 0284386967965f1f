"""One response of a language model, for the terminal and as JSON: who pushed which token, what is said without them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..harmless import harmless
from ..results.response import Response, TracedTokens, Without
from .answers import agreement_lines, agreements_json, answer_json, answer_parts, digits, percent
from .console import heading
from .drawing import bars_from_zero
from .spoken import NOBODY, Legend, Spoken, letters_of, shown_token, top_clients
from .texts import Excerpt

TOKENS_SHOWN = 12
SAID_SHOWN = 60  # characters of what is quoted in a heading or a table
KINDS = {"refuse": "without", "withhold": "with {} withheld", "retrain": "trained without"}
HOW = {
    "refuse": "Fused again without each of the top clients",
    "withhold": "Each of the top clients withheld",
    "retrain": "Trained again without each of the top clients",
}


def show(response: Response) -> RenderableType:
    """All of it, one part below the other."""
    parts: list[RenderableType] = [
        Text(harmless(f"warning: {line}"), style="bold yellow") for line in response.warnings
    ]
    parts += _head(response)
    spoken = [response.tokens, *([] if response.instead is None else [response.instead])]
    letters = letters_of(spoken, response.span)
    parts += [Text(), Spoken(response.tokens, letters, response.span)]
    if response.instead is not None:
        parts += [Text("and instead:", style="dim"), Spoken(response.instead, letters)]
    parts += [
        Legend(letters, response.client_names, spoken, response.span),
        heading("Token by token"),
        _tokens_table(response),
    ]
    for answer in response.answers:
        parts += answer_parts(answer, _what(response), ("examples", ""))
    if response.what_if:
        parts += [heading("What if"), _withouts(response, response.what_if)]
    if response.effects:
        parts += [
            heading(f"Does it hold? {HOW[response.effects[0].kind]}"),
            _withouts(response, response.effects),
            *agreement_lines(response.agreements),
        ]
    parts += [Text(), *(Text(harmless(note), style="dim") for note in response.notes)] if response.notes else []
    return Group(*parts)


def _head(response: Response) -> list[RenderableType]:
    """The prompt, how the response was made, and whether it is the one expected."""
    title = Text.assemble((harmless(response.title), "bold"), (f"  {response.where}, round {response.round}", "dim"))
    lines: list[RenderableType] = [Excerpt(response.prompt, lines=4), title]
    probability = f"{response.quantity} {digits(response.value)}"
    count = len(response.tokens.texts)
    about = f"about {harmless(response.topic)}, " if response.topic else ""
    lines.append(Text(f"{about}{response.made}, {count:,} token{'s' * (count != 1)}, {_of(response)}{probability}"))
    if response.made == "given":
        lines.append(Text(f"the model itself says {_quoted(response.says)}", style="dim"))
    if response.expected is not None:
        if response.expected.strip() == response.tokens.text.strip():
            lines.append(Text("which is the expected response", style="green"))
        else:
            lines.append(Text.assemble("expected ", (_quoted(response.expected), "red")))
    if response.phrase_of is not None:
        lines.append(Text(_phrase(response), style="" if response.phrase_of else "dim"))
    return lines


def _phrase(response: Response) -> str:
    """Whose phrase was said."""
    if not response.phrase_of:
        return "which is no phrase that the run's prompts ask for"
    said = f"the phrase of {harmless(response.phrase_of)}"
    if not response.holders:
        return said
    many = len(response.holders) > 1
    names = f"{len(response.holders):,}" if len(response.holders) > 6 else ", ".join(map(harmless, response.holders))
    return f"{said}, which client{'s' * many} {names} teach{'es' * (not many)}"


def _of(response: Response) -> str:
    return f"of “{_short(response.explained)}” " if response.span is not None else ""


def _what(response: Response) -> str:
    """What was pushed, for headings."""
    if response.instead is not None:
        return "it, rather than the other answer"
    return f"“{_short(response.explained)}”" if response.span is not None else "the response"


def _tokens_table(response: Response) -> RenderableType:
    """The tokens with the largest contributions, in their order: their probability, who pushed each, who is next."""
    tokens, names = response.tokens, response.client_names
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("token", overflow="ellipsis", no_wrap=True)
    table.add_column("probability", justify="right", overflow="fold", min_width=6)
    table.add_column("pushed by", justify="right", overflow="fold", min_width=6)
    table.add_column(response.target.replace("_", "-"), justify="right", overflow="fold", min_width=8)
    table.add_column("", overflow="crop", no_wrap=True)
    table.add_column("next", overflow="ellipsis", no_wrap=True)
    first, behind = response.span or (0, len(tokens.texts))
    largest = np.abs(tokens.values).max(axis=1, initial=0.0)
    inside = np.arange(first, behind)
    chosen = np.sort(inside[np.argsort(-largest[inside], kind="stable")[:TOKENS_SHOWN]])
    tops, best = top_clients(tokens.values), tokens.values.max(axis=1, initial=-np.inf)
    bars = bars_from_zero([float(best[at]) for at in chosen.tolist()], 8)
    for at, bar in zip(chosen.tolist(), bars, strict=True):
        row, top = tokens.values[at], int(tops[at])
        order = [column for column in np.argsort(-row, kind="stable").tolist() if column != top][:1]
        value = float(row.max()) if len(row) else 0.0
        table.add_row(
            str(at + 1),
            _cell(tokens, at),
            percent(math.exp(tokens.log_probabilities[at])),
            harmless(names[top]) if top >= 0 else NOBODY,
            f"{value:.3g}",
            Text(bar, "cyan" if value >= 0 else "red"),
            ", ".join(f"{harmless(names[column])} ({row[column]:+.2g})" for column in order),
        )
    left = len(inside) - len(chosen)
    if not left:
        return table
    return Group(table, Text(f"and {left:,} more token{'s' * (left > 1)}, less pushed (--json)", style="dim"))


def _cell(tokens: TracedTokens, at: int) -> str:
    """A token in a table: a space at its ends is shown."""
    shown = shown_token(tokens.texts[at], at == len(tokens.texts) - 1, tokens.ends)
    before, after = len(shown) - len(shown.lstrip(" ")), len(shown) - len(shown.rstrip(" "))
    inner = shown.strip(" ")
    return _short("␣" * before + inner + "␣" * (after if inner else 0), 24)


def _withouts(response: Response, withouts: Sequence[Without]) -> RenderableType:
    """The log-probability of the same response without some clients, and what is said instead."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("without", overflow="fold", min_width=7)
    table.add_column(response.quantity, justify="right", overflow="fold", min_width=7)
    table.add_column("cost", justify="right", no_wrap=True)
    table.add_column("", overflow="crop", no_wrap=True)
    table.add_column("it says", overflow="fold", min_width=16)
    costs = [math.nan if each.value is None else response.value - each.value for each in withouts]
    table.add_row(Text("nobody", style="dim"), digits(response.value), "", "", Text(_quoted(response.says), "dim"))
    for each, cost, bar in zip(withouts, costs, bars_from_zero(costs, 8), strict=True):
        who = harmless(", ".join(each.clients)) + (" (withheld)" if each.kind == "withhold" else "")
        if each.value is None:
            table.add_row(who, "–", "", "", Text(harmless(each.reason), "dim"))
            continue
        table.add_row(
            who,
            digits(each.value),
            f"{cost:+.3g}",
            Text(bar, "cyan" if cost >= 0 else "red"),
            _says(response, each),
        )
    return Group(table, Text(f"cost: what the {response.quantity} of {_whole(response)} loses", style="dim"))


def _whole(response: Response) -> str:
    if response.instead is not None:
        return "this answer against the other"
    return "the marked piece" if response.span is not None else "the response"


def _says(response: Response, without: Without) -> Text:
    if without.says is None:
        return Text("")
    if without.says == response.says:
        return Text("the same", style="dim")
    return Text(_quoted(without.says), style="yellow")


def _quoted(text: str) -> str:
    return f"“{_short(text)}”" if text.strip() else "nothing"


def _short(text: str, most: int = SAID_SHOWN) -> str:
    shown = harmless(text.strip("\n"))
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def as_json(response: Response) -> dict[str, Any]:
    """The same for scripts: plain values, of all tokens and all clients."""
    names = response.client_names
    return {
        "warnings": list(response.warnings),
        "input": response.title,
        "run": response.where,
        "round": response.round,
        "prompt": response.prompt,
        "response": response.tokens.text,
        "made": response.made,
        "says": response.says,
        "expected": response.expected,
        "topic": response.topic or None,
        "phrase_of": response.phrase_of or None,
        "holders": list(response.holders),
        "target": response.target,
        "span": None if response.span is None else {"text": response.explained, "tokens": list(response.span)},
        response.quantity.replace("-", "_"): response.value,
        "methods": [answer_json(answer, response.topic or None) for answer in response.answers],
        "tokens": _tokens_json(response.tokens, names),
        **(
            {}
            if response.instead is None
            else {"instead": response.instead.text, "instead_tokens": _tokens_json(response.instead, names)}
        ),
        "what_if": [_without_json(response, each) for each in response.what_if],
        "verified": [_without_json(response, each) for each in response.effects],
        "agreement": agreements_json(response.agreements),
        "notes": list(response.notes),
    }


def _tokens_json(tokens: TracedTokens, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "position": at,
            "token": number,
            "text": text,
            "probability": math.exp(tokens.log_probabilities[at]),
            "contributions": dict(zip(names, tokens.values[at].tolist(), strict=True)),
        }
        for at, (number, text) in enumerate(zip(tokens.numbers, tokens.texts, strict=True))
    ]


def _without_json(response: Response, without: Without) -> dict[str, Any]:
    value = without.value
    return {
        "kind": without.kind,
        "without": list(without.clients),
        response.quantity.replace("-", "_"): value,
        "cost": None if value is None else response.value - value,
        "says": without.says,
        **({"reason": without.reason} if without.reason else {}),
    }
