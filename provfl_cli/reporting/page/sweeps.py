"""Several runs as a page shows them: one table of all, and curves against each setting in which they differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...comparison.headings import HEADINGS
from ...comparison.join import JoinedRuns, TableQuery, join
from ...comparison.settings import confounded, differing, value, written
from ...results.folders import MissingRun, RunFolder
from ..joined_views import below, wide
from ..table import Table

CURVES = 6  # settings that have one


def joined_table(runs: Sequence[RunFolder], absent: Sequence[MissingRun]) -> tuple[Table, list[str]]:
    """All runs in one table, and the lines below it."""
    joined = join(runs, TableQuery(), absent)
    return wide(joined), below(joined)


def curves(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """Means over seeds against each setting in which the runs differ, other settings averaged within a seed.

    Each has `key`, `numeric`, `values` (in order), `with` (the settings that change together with it, so that nobody
    can tell which of them made a difference), and `lines`: by method and metric, mean, bounds of the 95% t interval
    over seeds, and chance, at each value.
    """
    plots, keys = [], differing(runs).keys
    together = confounded(runs, keys)
    for key in keys[:CURVES]:
        joined = join(runs, TableQuery(by=(key,)))
        values = _ordered(list(dict.fromkeys(value(run, key) for run in runs)))
        numbers = [_number(text) for text in values]
        plots.append(
            {
                "key": key,
                "numeric": None not in numbers,
                "values": values,
                "with": list(together.get(key, ())),
                "metrics": {name: HEADINGS.get(name, name.replace("_", " ")) for name in joined.metrics},
                "lines": _lines(joined, key, values),
            }
        )
    return plots


def _lines(joined: JoinedRuns, key: str, values: Sequence[str]) -> list[dict[str, Any]]:
    others = [word for word in joined.words if word != f"={key}"]
    lines = []
    for name, group in joined.frame.groupby([*others, "metric"], sort=False):
        *words, metric = map(str, name)
        rows = group.drop_duplicates(f"={key}").set_index(f"={key}").reindex(list(values))
        lines.append(
            {"name": " ".join(words), "metric": metric}
            | {
                column: [_plain(number) for number in rows[column].tolist()]
                for column in ("mean", "low", "high", "chance")
            }
        )
    return lines


def _ordered(values: Sequence[str]) -> list[str]:
    """Numbers ascending, behind what is none (such as null)."""
    words = [text for text in values if _number(text) is None]
    return [*words, *sorted((text for text in values if _number(text) is not None), key=float)]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _plain(number: float) -> float | None:
    return round(float(number), 6) if math.isfinite(number) else None


def summary_of(run: RunFolder) -> dict[str, Any]:
    """What a comparison of two runs needs: settings, figures and accuracy by round."""
    return {
        "settings": {key: written(setting) for key, setting in run.settings.items()},
        "figures": {
            key: figure
            for key, figure in run.figures.items()
            if isinstance(figure, int | float) and not isinstance(figure, bool) and math.isfinite(figure)
        },
        "accuracy": [[number, accuracy] for number, accuracy in run.accuracy.items()],
    }
