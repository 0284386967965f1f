"""Repairs of several runs as a page in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..comparison.repairs import AS_IT_IS, Averaged
from ..results.repair import RETRAIN
from .table import ABSENT, Table
from .tables import to_markdown

NOTES = (
    "fault: share of test inputs with the trigger predicted as its label; of a label flip, of test inputs whose label "
    "was flipped, predicted as what it was flipped to",
    "against retraining: mean over seeds of accuracy and fault less those of the model that was retrained without the "
    "clients, in points; worst: the largest of these differences in any seed",
    "distance: |W - W_retrained| / |W_retrained| over all parameters; agreement: share of test inputs of which it "
    "predicts what the retrained model predicts",
    "membership: how well a low loss tells the removed clients' training examples from unseen test inputs (AUROC); the "
    "retrained model, which has never seen them, says what is to be reached, not 0.5",
    "seconds: of making the model, training included, whenever that was, on the machine as it was loaded then",
)


def page(keys: Sequence[str], rows: Sequence[Averaged], commands: Sequence[str], missing: Sequence[str] = ()) -> str:
    """A table of all settings, what each way does, and what columns mean.

    Args:
        keys: the settings that name a row.
        rows: as `comparison.repairs.averaged` gives them.
        commands: what a reader types to get the same.
        missing: runs that are not in it, a line each.
    """
    headings = (
        *keys, "way", "accuracy", "fault", "against retraining: accuracy", "fault", "worst", "distance", "agreement",
        "membership", "seconds", "seeds",
    )  # fmt: skip
    table = Table("A global model without some clients", headings, tuple(map(_cells, rows)), len(keys) + 1)
    does = dict.fromkeys((row.way, row.does) for row in rows if row.does)
    notes = [*(f"{way}: {what}" for way, what in does), *NOTES, *(f"not in it: {line}" for line in missing)]
    head = "# repair\n\nWhat does it take to get rid of what a faulty client has done?\n\n```text\n"
    return head + "\n".join(commands) + "\n```\n\n" + to_markdown([table], "\n".join(f"- {note}" for note in notes))


def _cells(row: Averaged) -> tuple[str, ...]:
    quality, compared = row.quality, row.way not in (RETRAIN,)
    return (
        *row.setting,
        "retrained" if row.way == RETRAIN else row.way,
        _number(quality.accuracy, "{:.3f}"),
        _number(quality.success, "{:.1%}"),
        *(
            _number(100 * value if compared else math.nan, pattern)
            for value, pattern in ((row.accuracy_gap, "{:+.1f}"), (row.success_gap, "{:+.1f}"), (row.gap, "{:.1f}"))
        ),
        _number(quality.distance, "{:.3f}"),
        _number(quality.agreement, "{:.3f}"),
        _number(quality.membership, "{:.3f}"),
        ABSENT if row.way == AS_IT_IS else _number(row.seconds, "{:.2g}" if row.seconds < 10 else "{:.0f}"),
        str(row.seeds),
    )


def _number(value: float, pattern: str) -> str:
    return ABSENT if math.isnan(value) else pattern.format(value)
