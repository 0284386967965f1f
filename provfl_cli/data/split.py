"""One split of a data set as it stands in its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Split:
    """One split: (where it stands, encoded picture or text) and label of each; class names where the source has them.

    A label is a whole number or a string, as in the source; None is missing. In a `written` split all are strings,
    since the source has no types. `origin` names the files, `notes` are sentences for the user.
    """

    cells: Sequence[tuple[str, Any]]
    labels: Sequence[Any]
    names: tuple[str, ...] | None = None
    written: bool = False
    origin: str = ""
    notes: tuple[str, ...] = ()
