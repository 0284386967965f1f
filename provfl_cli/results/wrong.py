"""What is said of a file of a run folder whose content no run writes."""

from __future__ import annotations

import numpy as np

from ..checks import excerpt


class WrongContent(ValueError):
    """A file can be read and does not hold what a run writes; the message says where, what, and what is read."""


def shown(value: object) -> str:
    """A value as a message repeats it."""
    value = value.item() if isinstance(value, np.generic) else value
    kinds = {dict: "an object", list: "a list", bytes: "bytes"}
    return next((name for kind, name in kinds.items() if isinstance(value, kind)), excerpt(repr(value), 60))
