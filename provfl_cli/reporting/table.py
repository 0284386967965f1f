"""A table as text, whatever it is of."""

from __future__ import annotations

from dataclasses import dataclass

ABSENT = "–"


@dataclass(frozen=True)
class Table:
    """Cells as text. The first `words` columns are words and stand left, the others are numbers."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
