"""Contributions as a notebook shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..markup import Markup, bar, cell, table

if TYPE_CHECKING:
    from .tracing import Contributions

INPUTS_SHOWN = 5
CLIENTS_SHOWN = 10


def contributions_html(found: Contributions) -> Markup:
    """The best clients of the first inputs, a table each: raw contribution, bar, share (softmax over candidates)."""
    inputs, clients = found.values.shape
    tables = [_input(found, row) for row in range(min(inputs, INPUTS_SHOWN))]
    used = int(found.candidates.sum())
    head = f"Contributions of {clients} clients ({used} used by fusion) to {inputs} predictions"
    more = f"<p>… and {inputs - INPUTS_SHOWN} more inputs</p>" if inputs > INPUTS_SHOWN else ""
    return Markup(f"<div><p><b>{cell(head)}</b></p>{''.join(tables)}{more}</div>")


def _input(found: Contributions, row: int) -> Markup:
    used = np.flatnonzero(found.candidates)
    values = found.values[row, used]
    powers = np.exp(values - values.max(initial=-np.inf))
    shares = powers / powers.sum()
    largest = float(np.abs(values).max(initial=0.0))
    best = np.argsort(-values, kind="stable")[:CLIENTS_SHOWN]
    rows: list[tuple[object, ...]] = [
        (found.clients[used[at]], float(values[at]), bar(float(values[at]), largest), f"{shares[at]:.1%}")
        for at in best
    ]
    rows += [(kind, float(part[row]), bar(float(part[row]), largest), "") for kind, part in found.rows.items()]
    explained = int(found.predictions[row])
    probability = float(found.probabilities[row, explained])
    caption = f"input {row}: class {explained}, probability {probability:.1%}"
    if len(values) > len(best):
        caption += f"; top {len(best)} of {len(values)}"
    return table(("client", "contribution", "", "share"), rows, caption)
