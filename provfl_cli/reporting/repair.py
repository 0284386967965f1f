"""A repaired model on the terminal and in Markdown: a sentence, a table of the ways, what each does."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as Drawn
from rich.text import Text

from ..evaluation.repair import Quality, gap
from ..results.repair import RETRAIN, Repair, Way
from .table import ABSENT

AS_IT_IS = "as it is"
COLUMNS = {  # of `Quality`: what a column is called
    "accuracy": "accuracy",
    "success": "fault",
    "distance": "distance",
    "agreement": "agreement",
    "membership": "membership",
    "changed": "changed",
}
EXPLAINED = {
    "success": "fault: {fault}",
    "distance": "distance: of the weights from those of the retrained model, |W - W_retrained| / |W_retrained|",
    "agreement": "agreement: share of test inputs of which it predicts what the retrained model predicts",
    "membership": "membership: how well a low loss tells what the clients trained on from unseen test inputs (AUROC)",
    "changed": "changed: how far the weights have moved, |W - W_before| / |W_before|",
}
NOT_COMPARED = "not compared with retraining"


def sentence(repair: Repair) -> str:
    """What was done and what came of it, in one or two sentences; never more than was measured."""
    who = f"client{'s' * (len(repair.clients) > 1)} {', '.join(repair.clients)}"
    if not repair.best:
        made = [way.name for way in repair.ways if way.quality is not None]
        return f"Without {who}: {', '.join(made)} made; how good that is was not measured."
    best, before = repair.way(repair.best), repair.before
    assert best.quality is not None
    said = f"Without {who} the accuracy is {_change(before.accuracy, best.quality.accuracy)} ({best.name})"
    if not math.isnan(best.quality.success):
        said += f", and the fault succeeds in {_change(before.success, best.quality.success, share=True)}"
    if repair.retrained is None:
        return f"{said}. Not compared with retraining."
    reference = repair.retrained
    said += f"; retrained it is {reference.accuracy:.3f}"
    if not math.isnan(reference.success):
        said += f", {reference.success:.1%}"
    return f"{said}."


def _change(before: float, after: float, share: bool = False) -> str:
    """`0.68 -> 0.74`."""
    return f"{before:.1%} -> {after:.1%}" if share else f"{before:.3f} -> {after:.3f}"


def lines(repair: Repair) -> list[str]:
    """What stands below the table."""
    shown = _columns(repair)
    said = [f"{way.name}: {way.missing or way.does}" for way in repair.ways]
    said += [EXPLAINED[name].format(fault=repair.fault) for name in EXPLAINED if name in shown]
    if repair.best:
        said.append(f"best of what was made without retraining: {repair.best} ({repair.rule})")
    if repair.retrained is None:
        ways = ",".join([*(way.name for way in repair.ways), RETRAIN])
        said.append(f"{NOT_COMPARED} (--how {ways} does)" if repair.trainable else NOT_COMPARED)
    elif repair.best and (quality := repair.way(repair.best).quality) is not None:
        said.append(f"{repair.best} differs from retraining by {gap(quality, repair.retrained):.1%} at most in these")
    return [*said, *repair.notes]


def table(repair: Repair) -> tuple[list[str], list[list[str]]]:
    """Headings and cells; the model as it is first, the retrained one last."""
    names = _columns(repair)
    rows = [[AS_IT_IS, *(_cell(repair.before, name) for name in names), ""]]
    for way in repair.ways:
        rows.append([_name(way, repair), *(_cell(way.quality, name) for name in names), _seconds(way)])
    return ["", *(COLUMNS[name] for name in names), "seconds"], rows


def show(repair: Repair) -> RenderableType:
    """For the terminal."""
    headings, rows = table(repair)
    drawn = Drawn(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False, show_edge=False)
    for number, heading in enumerate(headings):
        drawn.add_column(heading, justify="right" if number else "left", no_wrap=not number)
    for row in rows:
        drawn.add_row(*map(Text, row), style="bold" if row[0].endswith("*") else "")
    return Group(Text(sentence(repair), style="bold"), Text(), drawn, Text(), *map(Text, lines(repair)))


def _columns(repair: Repair) -> list[str]:
    """The columns that hold a number."""
    qualities: Sequence[Quality | None] = [repair.before, *(way.quality for way in repair.ways)]
    left_out = {"changed"} if repair.retrained is not None else set()
    return [
        name
        for name in COLUMNS
        if name not in left_out
        and any(quality is not None and not math.isnan(getattr(quality, name)) for quality in qualities)
    ]


def _name(way: Way, repair: Repair) -> str:
    if way.name == RETRAIN:
        return "retrained"
    return f"{way.name} *" if way.name == repair.best else way.name


def _seconds(way: Way) -> str:
    return ABSENT if way.quality is None else f"{way.seconds:.2g}" if way.seconds < 10 else f"{way.seconds:.0f}"


def _cell(quality: Quality | None, name: str) -> str:
    value = math.nan if quality is None else getattr(quality, name)
    if math.isnan(value):
        return ABSENT
    return f"{value:.1%}" if name == "success" else f"{value:.3f}"
