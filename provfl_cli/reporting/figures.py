"""Figures of a run for papers: readable in print, in colours that the colour-blind tell apart, fonts embedded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.picture import open_picture
from ..errors import InputError, did_you_mean
from ..evaluation.contributions import Trace
from ..harmless import harmless
from ..imports import later
from ..results.run import RunContents
from ..store.disk import replacing
from .figure_files import COLOURS, MARKERS, default_style, figure_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from . import canvas
else:
    canvas = later("provfl_cli.reporting.canvas")

ENDINGS = (".pdf", ".png", ".svg")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "provfl",
}
NO_TIME: Mapping[str, dict[str, None]] = {  # the same figure gives the same bytes
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
BARS = 12  # clients of a ranking
MOST_TICKS = 30
NUMBERS_IN = 20  # clients and labels up to which cells have their number written in
TEXT_WIDTH, TEXT_LINES = 34, 9


def draw(opened: RunContents, kind: str, number: int | None = None) -> Figure:
    """The figure of a kind.

    Args:
        opened: the run.
        kind: one of `KINDS`.
        number: of the input, for `ranking`; None: the first that was traced.

    Raises:
        InputError: there is no such kind, or the run has nothing for it.
    """
    check_kind(kind)
    with default_style(STYLE):
        return ranking(opened, number) if kind == "ranking" else KINDS[kind](opened)


def check_kind(kind: str) -> None:
    """Refuse what is none of `KINDS`."""
    if kind not in KINDS:
        raise InputError(f"{kind}: no such figure, {did_you_mean(kind, KINDS)}")


def check_ending(path: Path) -> None:
    """Refuse, before anything is drawn, a file whose ending is none of `ENDINGS`."""
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"--out {path}: must end in {' or '.join(ENDINGS)}")


def save(drawn: Figure, path: Path) -> None:
    """Write a figure as its ending says.

    Raises:
        InputError: the ending is none of `ENDINGS`.
        RunError: the file cannot be written.
    """
    check_ending(path)
    kind = path.suffix.lower().removeprefix(".")
    with default_style(STYLE), replacing(path) as beside:
        drawn.savefig(beside, format=kind, dpi=300, metadata=NO_TIME[kind])


def heatmap(opened: RunContents) -> Figure:
    """Contributions of clients (rows) to the traced inputs (columns, by label), relative to each input's largest."""
    trace = _own_trace(opened)
    order = np.argsort(trace.labels, kind="stable")
    values = trace.contributions[order]
    largest = np.abs(values).max(axis=1, keepdims=True)
    scaled = np.divide(values, largest, out=np.zeros_like(values), where=largest > 0).T
    height = min(max(1.4 + 0.16 * len(scaled), 2.2), 6.0)
    drawn, axes = _figure(7.0, height)
    shown = axes.imshow(scaled, aspect="auto", cmap="cividis", vmin=-1, vmax=1, interpolation="nearest")
    labels = trace.labels[order]
    starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
    ends = np.r_[starts[1:], len(labels)]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color="white", linewidth=0.8)
    names = [_short(opened.label(int(labels[start])), 12) for start in starts]
    axes.set_xticks((starts + ends) / 2 - 0.5, names, rotation=0 if max(map(len, names)) < 4 else 40)
    axes.tick_params(axis="x", length=0)
    _client_ticks(axes, [opened.client(client) for client in trace.clients.tolist()])
    axes.set_xlabel("traced inputs, by true label")
    axes.set_ylabel("client")
    bar = drawn.colorbar(shown, ax=axes, pad=0.01, fraction=0.04, ticks=[-1, 0, 1])
    bar.set_label("contribution / largest")
    return drawn


def ranking(opened: RunContents, number: int | None = None) -> Figure:
    """One input, as a picture or text, beside its clients, best first (as the paper's Figure 1)."""
    trace = _own_trace(opened)
    known = trace.inputs.tolist()
    number = known[0] if number is None else number
    if number not in known:
        near = ", ".join(map(str, sorted(known, key=lambda other: abs(other - number))[:5]))
        raise InputError(f"--input {number}: was not traced in round {opened.last_round}, the nearest are {near}")
    at = known.index(number)
    values, rank = trace.contributions[at], trace.rank[at]
    best = np.lexsort((trace.clients, -values, rank))[:BARS]
    label, predicted = int(trace.labels[at]), int(trace.predictions[at])
    drawn = canvas.empty(6.4, max(1.9, 0.9 + 0.22 * len(best)))
    left, axes = drawn.subplots(1, 2, width_ratios=(1, 2.2))
    _show_input(left, opened, number)
    verdict = "\n(right)" if label == predicted else f"\n(labelled {_short(opened.label(label), 20)})"
    known_label = "" if label < 0 else verdict
    says = "predicted " if opened.explains == "classes" else ""
    left.set_title(f"{says}{_short(opened.label(predicted), 20)}{known_label}", fontsize=9)
    rows = np.arange(len(best))
    colours = [COLOURS[0] if value >= 0 else COLOURS[1] for value in values[best]]
    bars = axes.barh(rows, values[best], color=colours)
    for bar, value in zip(bars, values[best], strict=True):
        if value < 0:
            bar.set_hatch("///")
    axes.axvline(0, color="black", linewidth=0.8)
    clients = trace.clients[best].tolist()
    names = [
        f"{_short(opened.client(client), 20)}{' (faulty)' if client in opened.faulty else ''}" for client in clients
    ]
    if (rank[best] == 1).sum() > 1:
        names = [f"{name} tied" if place == 1 else name for name, place in zip(names, rank[best], strict=True)]
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    if why := _unread(opened, "clients.csv"):
        raise InputError(f"{opened.run.folder}: {why}")
    if opened.counts is not None:
        axes.margins(x=0.16)
        for row, (client, value) in enumerate(zip(clients, values[best], strict=True)):
            text = f" {opened.counts[client][label]:,} "
            axes.text(value, row, text, va="center", ha="left" if value >= 0 else "right", fontsize=7.5)
    more = "" if len(best) == len(values) else f", the best {len(best)} of {len(values):,}"
    axes.set_ylabel(f"client{more}")
    axes.set_xlabel("contribution" + ("" if opened.counts is None else " (number: its examples of the label)"))
    axes.spines[["top", "right"]].set_visible(False)
    return drawn


def labels(opened: RunContents) -> Figure:
    """Training examples of each label (columns) at each client (rows)."""
    if opened.counts is None:
        why = _unread(opened, "clients.csv") or "has no clients.csv to tell what clients hold: run it again"
        if opened.recorded is not None:
            why = "a server does not know what labels clients hold, so neither does a recorded federation"
        raise InputError(f"{opened.run.folder}: {why}")
    table = np.stack(list(opened.counts.values()))
    drawn, axes = _figure(min(max(2.4 + 0.4 * table.shape[1], 3.6), 7.0), min(max(1.4 + 0.2 * len(table), 2.4), 7.0))
    shown = axes.imshow(np.ma.masked_equal(table, 0), aspect="auto", cmap="cividis", vmin=0, interpolation="nearest")
    names = [_short(name, 14) for name in opened.labels]
    step = -(-len(names) // MOST_TICKS)
    axes.set_xticks(range(0, len(names), step), names[::step], rotation=0 if max(map(len, names)) < 4 else 40)
    _client_ticks(axes, [opened.client(client) for client in opened.counts])
    if len(table) <= NUMBERS_IN and table.shape[1] <= NUMBERS_IN:
        for row, column in zip(*np.nonzero(table), strict=True):
            bright = table[row, column] > 0.55 * table.max()
            axes.text(column, row, f"{table[row, column]}", ha="center", va="center", fontsize=6.5,
                      color="black" if bright else "white")  # fmt: skip
    axes.set_xlabel("label")
    axes.set_ylabel("client")
    drawn.colorbar(shown, ax=axes, pad=0.02, fraction=0.05).set_label("training examples")
    return drawn


def accuracy(opened: RunContents) -> Figure:
    """Accuracy of the global model by round and, where several rounds were traced, localization beside chance."""
    if not opened.history:
        why = "metrics.jsonl has no round" if opened.recorded is None else "the labels of the inputs are not known"
        raise InputError(f"{opened.run.folder}: {why}")
    drawn, axes = _figure(5.2, 3.0)
    rounds = [row["round"] for row in opened.history]
    axes.plot(rounds, [row["accuracy"] for row in opened.history], color="black", marker=".", label="global accuracy")
    scores = opened.run.scores
    if scores["round"].nunique() > 1:
        for number, ((method, scope), rows) in enumerate(scores.groupby(["method", "scope"], sort=False)):
            look: dict[str, Any] = {"color": COLOURS[number % 6], "markersize": 4}
            name = f"localization, {method}" + (" (all rounds)" if scope == "lineage" else "")
            axes.plot(rows["round"], rows["localization_accuracy"], marker=MARKERS[number % 8], label=name, **look)
            beside = name.replace("localization", "chance")
            axes.plot(rows["round"], rows["chance_accuracy"], linestyle=":", label=beside, **look)
    axes.set_ylim(0, 1.04)
    canvas.whole_numbers(axes.xaxis)
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy")
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    drawn.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return drawn


KINDS: Mapping[str, Callable[[RunContents], Figure]] = {
    "heatmap": heatmap,
    "ranking": ranking,
    "labels": labels,
    "accuracy": accuracy,
}


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    drawn = canvas.empty(width, height)
    return drawn, drawn.add_subplot()


def _own_trace(opened: RunContents) -> Trace:
    """Of the run's own method in the last round traced."""
    own = [trace for key, trace in opened.traces if key[1] == "round" and len(trace.inputs)]
    if not own:
        why = _unread(opened, "contributions.parquet") or "contributions.parquet has no traced input"
        raise InputError(f"{opened.run.folder}: {why}")
    return own[0]


def _unread(opened: RunContents, file: str) -> str:
    """What is wrong with a file of the run that is left out; empty where nothing is."""
    return next((note for note in opened.notes if note.startswith(file)), "")


def _client_ticks(axes: Axes, names: Sequence[str]) -> None:
    step = -(-len(names) // MOST_TICKS)
    axes.set_yticks(range(0, len(names), step), [_short(name, 16) for name in names[::step]])


def _show_input(axes: Axes, opened: RunContents, number: int) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"input {number}")
    if why := _unread(opened, "inputs.parquet"):
        raise InputError(f"{opened.run.folder}: {why}")
    rows = None if opened.inputs is None else opened.inputs[opened.inputs["input"] == number]
    if rows is None or rows.empty:
        return
    if "picture" in rows:
        try:
            with open_picture(rows["picture"].iloc[0]) as picture:
                pixels = np.asarray(picture)
        except Exception as error:  # of a picture that is none, or damaged
            where = f"{opened.run.folder}: inputs.parquet"
            raise InputError(f"{where}: the picture of input {number} cannot be read") from error
        axes.imshow(pixels, cmap="gray", interpolation="nearest")
        return
    if "text" not in rows:  # of a recorded federation: numbers that are no picture
        return
    lines = wrap(harmless(rows["text"].iloc[0]), TEXT_WIDTH)
    shown = "\n".join([*lines[:TEXT_LINES], *(["…"] if len(lines) > TEXT_LINES else [])])
    axes.text(0.5, 0.5, shown, ha="center", va="center", fontsize=7, transform=axes.transAxes, parse_math=False)
    axes.spines[:].set_visible(False)


def _short(text: str, most: int) -> str:
    """A name that fits, with nothing that matplotlib would take for mathematics."""
    shown = harmless(text)
    return figure_text(shown if len(shown) <= most else f"{shown[:most]}…")
