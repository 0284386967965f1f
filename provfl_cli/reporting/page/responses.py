"""Responses of language models as a page shows them: what was asked, each token, and who pushed it by how much."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.run import RunContents
from ...results.tokens import FILE, SpokenTokens

TOKENS_SHOWN = 400  # of one response
TEXT_SHOWN = 600  # characters of a prompt, and of the response that was expected


def shown_responses(opened: RunContents, numbers: Sequence[int], cells: int) -> tuple[dict[str, Any] | None, list[str]]:
    """The traced responses to the inputs of these numbers, and what was left out; None where nothing was generated.

    Args:
        opened: the run.
        numbers: inputs that the page has.
        cells: the most numbers (tokens x clients) in all.

    Returns:
        `round`, `target`, `clients`; `responses` by input: `texts` of the tokens, `map` (contributions `[tokens,
        clients]` in 127ths of `most`, as bytes), `prompt` and `expected` where they are known.
    """
    keys = [key for key in opened.spoken if key[1] == "round"]
    if not keys:
        return None, []
    key = max(keys, key=lambda each: each[0])
    trace, room = opened.spoken[key], cells
    known = _texts(opened, key[0])
    responses, left, cut = dict[int, dict[str, Any]](), 0, 0
    for number in numbers:
        if number not in trace.responses:
            continue
        spoken = trace.responses[number]
        room -= min(len(spoken.texts), TOKENS_SHOWN) * len(trace.clients)
        if room < 0:
            left += 1
            continue
        cut += len(spoken.texts) > TOKENS_SHOWN
        responses[number] = {**_shown(spoken), **known.get(number, {})}
    told = []
    if left:
        told.append(f"the tokens of {left:,} responses are not in this page, to keep it small; {FILE} has all")
    if cut:
        told.append(f"responses are cut after {TOKENS_SHOWN} tokens; {FILE} has them whole")
    return {"round": key[0], "target": key[2], "clients": trace.clients.tolist(), "responses": responses}, told


def _shown(spoken: SpokenTokens) -> dict[str, Any]:
    values = spoken.values[:TOKENS_SHOWN]
    most = float(np.abs(values).max(initial=0.0))
    scaled = np.rint(values / most * 127) if most else np.zeros_like(values)
    return {
        "texts": list(spoken.texts[:TOKENS_SHOWN]),
        "most": float(f"{most:.4g}") if math.isfinite(most) else 0.0,
        "map": base64.b64encode(scaled.astype(np.int8).tobytes()).decode(),
    }


def _texts(opened: RunContents, round: int) -> dict[int, dict[str, str]]:
    """Prompt and expected response of each input."""
    if opened.inputs is None:
        return {}
    rows = opened.inputs[opened.inputs["round"] == round]
    there = [name for name in ("prompt", "expected") if name in rows]
    return {
        int(number): {name: _excerpt(text) for name, text in zip(there, texts, strict=True) if isinstance(text, str)}
        for number, *texts in zip(rows["input"], *(rows[name] for name in there), strict=True)
    }


def _excerpt(text: str) -> str:
    return text if len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]}…"
