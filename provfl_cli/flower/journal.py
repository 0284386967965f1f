"""A line a round, which is written down of a recorded Flower app, and what Flower says of a round in a word."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..recording import rounds
from ..store.recorded import JOURNAL
from .messages import Node
from .naming import Register
from .recording import AskedRound, WrittenRound

LONGEST = 300  # characters of a client's error that are kept


def note(
    folder: Path, asked: AskedRound, register: Register, reason: str | None, written: WrittenRound | None = None,
    clients: Collection[int] = (), left_out: Sequence[Node] = (),
) -> None:  # fmt: skip
    """Add a line on the round to the journal: who was asked, who is in it, who dropped out and why."""
    line: dict[str, Any] = {
        "round": asked.number,
        "asked": [register.called(node) for node in asked.asked],
        "fused": sorted(clients),
        "dropped": {register.called(node): why for node, why in asked.dropped.items()},
        "left_out": [register.called(node) for node in left_out],
        "recorded": reason is None,
        "reason": reason,
        "seconds": round(time.perf_counter() - asked.began, 4),
    }
    if written is not None:
        line["not_shared"] = list(written.not_shared)
        line["difference"] = written.difference if math.isfinite(written.difference) else None
    rounds.note(folder / JOURNAL, line)


def brief_reason(reason: str) -> str:
    """The last line of an error, which of a traceback is the one that says what was wrong."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return lines[-1][:LONGEST] if lines else "an error without a reason"


def train_loss(metrics: Mapping[str, object] | None) -> float:
    """The clients' mean loss, under one of its usual names; NaN: not known."""
    for name in ("train_loss", "train-loss", "loss"):
        if metrics is not None and isinstance(value := metrics.get(name), int | float):
            return float(value)
    return math.nan
