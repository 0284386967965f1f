"""Figures as files: the same figure gives the same bytes; colours and marks that the colour-blind can tell apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..harmless import harmless
from ..imports import later
from ..store.disk import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from . import canvas
else:
    canvas = later("provfl_cli.reporting.canvas")

# Okabe and Ito's colours, told apart by colour-blind readers; dashes and markers tell lines apart without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def figure_text(text: str) -> str:
    """A text from data as matplotlib is to draw it: harmless, and no mathematics."""
    return harmless(text).replace("$", r"\$")


@contextmanager
def default_style(settings: Mapping[Any, Any] = MappingProxyType({})) -> Iterator[None]:
    """Within it, or in a function that it decorates, matplotlib draws as it comes, with these settings.

    Not as a `matplotlibrc` says, which is read from the folder one stands in: it may turn on LaTeX, a program.
    """
    with canvas.style_of(settings):
        yield


def write_figure(folder: Path, name: str, drawn: Figure) -> None:
    """Write `name.png` and `name.pdf`, with fonts that stay text.

    Raises:
        RunError: they cannot be written.
    """
    for kind, nothing in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
        with replacing(folder / f"{name}.{kind}") as beside, default_style({"pdf.fonttype": 42}):
            drawn.savefig(beside, format=kind, dpi=200, metadata=nothing)
