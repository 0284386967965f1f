"""What figures are drawn on. matplotlib takes long to import, so this file is imported when one is drawn."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from matplotlib import style
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def empty(width: float, height: float) -> Figure:
    """A figure with nothing on it, of this size in inches; it makes room for what is drawn beside its axes."""
    return Figure(figsize=(width, height), layout="constrained")


def whole_numbers(axis: Axis) -> None:
    """Mark whole numbers alone on an axis, such as rounds."""
    axis.set_major_locator(MaxNLocator(integer=True))


def style_of(settings: Mapping[Any, Any]) -> AbstractContextManager[None]:
    """Within it matplotlib draws as it comes, with these settings."""
    return style.context(dict(settings), after_reset=True)
