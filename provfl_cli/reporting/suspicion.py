"""Who is suspected in a round, and by which scores: a table for the terminal."""

from __future__ import annotations

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..attribution.suspects import Suspicion

SHOWN = 5  # clients, those that are suspected and the next


def table(found: Suspicion) -> RenderableType:
    """The clients most unlike the others, with the robust z of each score; those above a threshold are marked."""
    if not found.compared:
        return Text(f"{len(found.clients)} clients are too few to tell who is unlike the others")
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False, show_edge=False)
    for heading in ("client", *(score.name for score in found.scores)):
        shown.add_column(heading, justify="right")
    order = np.argsort(-found.degrees, kind="stable")[: max(SHOWN, len(found.suspects))]
    for at in order.tolist():
        cells = [
            Text(f"{z:.1f}{'*' if z > score.threshold else ''}", style="bold red" if z > score.threshold else "")
            for z, score in zip(found.z[:, at], found.scores, strict=True)
        ]
        shown.add_row(str(found.clients[at]), *cells)
    limits = ", ".join(f"{score.name} {score.threshold:g}" for score in found.scores)
    return Group(
        Text(f"suspected: {found.said}", style="bold"),
        shown,
        Text(f"robust z on the suspicious side; * above its threshold: {limits}", style="dim"),
    )
