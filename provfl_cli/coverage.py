"""What a trace does not account for, in one line: every output of a trace begins with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .harmless import harmless

NAMES_SHOWN = 5
LONGEST = 80  # characters of a name


def coverage_warning(covered: float, names: Collection[str]) -> str:
    """The share of the model's parameters that contributions do not hold, and the first of their names.

    Args:
        covered: share of the parameters that is accounted for, 0 to 1.
        names: of the parameters that are not; whatever they hold, the line does nothing but be read.

    Returns:
        One line without a mark of its own; empty where everything is accounted for.
    """
    if covered >= 1 and not names:
        return ""
    share = 1.0 - covered
    size = f"{share:.1%}" if share >= 0.001 else "less than 0.1%"
    return (
        f"{size} of the model's parameters are not accounted for{listed(names, ': ')}; "
        "what clients changed in them is in no contribution, so the ranking may be wrong"
    )


def listed(names: Collection[str], before: str = "") -> str:
    """At most five names, and how many more there are, behind `before`; empty where there are none."""
    shown = [printable(name) for name in list(names)[:NAMES_SHOWN]]
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return f"{before}{', '.join(shown)}{more}" if shown else ""


def recorded_warning(trace: Any) -> str:
    """The warning of the `trace` of a run's `manifest.json`; empty where that is missing or says nothing of it."""
    if not isinstance(trace, Mapping):
        return ""
    covered, names = trace.get("covered"), trace.get("uncovered")
    if isinstance(covered, bool) or not isinstance(covered, int | float):
        return ""
    return coverage_warning(float(covered), [str(name) for name in names] if isinstance(names, Mapping | list) else [])


def printable(name: str) -> str:
    """A name as `harmless` shows it, and not longer than a line takes."""
    plain = harmless(name)
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1]}…"
