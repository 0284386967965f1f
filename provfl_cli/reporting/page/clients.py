"""Clients as a page shows them: what they hold, when they took part, which labels they push, who is suspected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...evaluation.contributions import Trace
from ...evaluation.fading import fading, over_rounds
from ...imports import later
from ...results.run import RunContents, last_part

if TYPE_CHECKING:
    import scipy
else:
    scipy = later("scipy")

MOST_CELLS = 10_000_000  # rounds x clients: a page of more no browser opens


def client_data(opened: RunContents) -> dict[str, Any]:
    """`number, names, examples, faulty`, and by client its label counts, mean share and times on top; None: not known.

    `share` is `[labels][clients]`, the mean over traced inputs of a true label, null where there is none; `suspicion`
    is who was behind wrong predictions.
    """
    numbers = list(opened.clients)
    table: dict[str, Any] = {
        "number": numbers,
        "names": dict(opened.names) or None,
        "examples": list(opened.clients.values()) if any(opened.clients.values()) else None,
        "faulty": list(opened.faulty),
        "counts": None if opened.counts is None else [opened.counts[client].tolist() for client in numbers],
        "last": last_part(opened),
        "share": None,
        "on_top": None,
        "suspicion": None,
    }
    own = next((trace for key, trace in opened.traces if key[1] == "round"), None)
    if own is not None and len(own.inputs):
        column = {client: position for position, client in enumerate(numbers)}
        at = np.array([column[client] for client in own.clients.tolist()])
        known = own.labels >= 0
        if known.any():
            share = scipy.special.softmax(own.contributions, axis=1)
            table["share"] = _by_label(own, share, at, len(numbers), len(opened.labels))
        table["on_top"] = _on_top(own, np.ones(len(own.inputs), dtype=bool), at, len(numbers))
        wrong = known & (own.labels != own.predictions)
        if wrong.any():
            table["suspicion"] = {
                "inputs": int(wrong.sum()),
                "on_top": _on_top(own, wrong, at, len(numbers)),
                "chance": round(float(wrong.sum()) / len(own.clients), 3),
            }
    return table


def _by_label(trace: Trace, share: np.ndarray, at: np.ndarray, clients: int, labels: int) -> list[list[float | None]]:
    rows: list[list[float | None]] = []
    for label in range(labels):
        row: list[float | None] = [None] * clients
        of_label = trace.labels == label
        if of_label.any():
            for position, mean in zip(at, share[of_label].mean(axis=0).tolist(), strict=True):
                row[position] = round(mean, 4)
        rows.append(row)
    return rows


def _on_top(trace: Trace, chosen: np.ndarray, at: np.ndarray, clients: int) -> list[float | None]:
    """For how many of the chosen inputs each client is at rank 1, tied ones by their part; None: not a candidate."""
    best = trace.rank[chosen] == 1
    times = (best / best.sum(axis=1, keepdims=True)).sum(axis=0)
    row: list[float | None] = [None] * clients
    for position, count in zip(at, times.tolist(), strict=True):
        row[position] = round(count, 3)
    return row


def participation(opened: RunContents) -> dict[str, Any] | None:
    """Who did what when: `rounds`, `status` `[clients][rounds]`, null for the not chosen, and whether `all` trained."""
    who = opened.participation
    if who is None or not len(who):
        return None
    rounds = sorted({int(number) for number in who["round"]})
    column = {number: position for position, number in enumerate(rounds)}
    row = {client: position for position, client in enumerate(opened.clients)}
    if len(rounds) * len(row) > MOST_CELLS:
        return None
    status: list[list[str | None]] = [[None] * len(rounds) for _ in row]
    for number, client, word in who[["round", "client", "status"]].itertuples(index=False):
        if client in row:
            status[row[client]][column[number]] = word
    everybody = all(word == "trained" for words in status for word in words)
    return {"rounds": rounds, "status": status, "all": everybody}


def lineage(opened: RunContents) -> list[dict[str, Any]] | None:
    """How clients' shares of a label went over the rounds traced, see `reporting.lineage`; None in a single one."""
    if opened.contributions is None or opened.counts is None:
        return None
    frame = over_rounds(opened.contributions)
    last = {client: number for client, number in last_part(opened).items() if client in opened.counts}
    if frame["round"].nunique() < 2 or not last:
        return None
    return [
        {
            "client": curve.client,
            "label": curve.label,
            "last": curve.last,
            "rounds": list(curve.rounds),
            "shares": [None if np.isnan(share) else round(share, 5) for share in curve.shares],
        }
        for curve in fading(frame, opened.counts, last)
    ]
