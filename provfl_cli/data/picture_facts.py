"""How the pictures of a training set were read and what they look like: by this, later pictures are read and judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import likeness
from . import pixel_scale as reading
from .likeness import Look
from .pixel_scale import AS_BEFORE, Reading


@dataclass(frozen=True)
class PictureFacts:
    """What a run keeps of its pictures; `look` None: not known. `lines` are sentences for the user."""

    reading: Reading = AS_BEFORE
    look: Look | None = None
    lines: tuple[str, ...] = ()


def as_values(facts: PictureFacts) -> dict[str, Any]:
    """Plain values, for a manifest."""
    return {
        "reading": reading.as_values(facts.reading),
        "look": None if facts.look is None else likeness.as_values(facts.look),
        "lines": list(facts.lines),
    }


def from_values(values: Mapping[str, Any] | None) -> PictureFacts:
    """What `as_values` made; of a run from before there was such a thing, the reading of that time.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is something else.
    """
    if values is None:
        return PictureFacts()
    look = values["look"]
    return PictureFacts(
        reading.from_values(values["reading"]),
        None if look is None else likeness.from_values(look),
        tuple(map(str, values["lines"])),
    )
