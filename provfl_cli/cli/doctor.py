"""`provfl doctor`: whether this installation, this machine and its training cache can do what a run needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..imports import later
from .arguments import parser, read
from .saying import say
from .waiting import waiting

if TYPE_CHECKING:
    from ..results import files
    from ..run import health
    from ..run.health import Finding
else:  # torch comes with it, numpy with the files
    files, health = later("provfl_cli.results.files"), later("provfl_cli.run.health")

CACHE = "outputs/cache"
MARKS = {True: "ok", False: "fails", None: "–"}


def main(arguments: list[str]) -> int:
    """Look at everything and say how it is; 1 where something fails."""
    made = parser(
        "doctor",
        description="Looks at versions, cores, GPU, extras, the training cache and the hub, and trains and traces a "
        "tiny federation. Exit code 0: a run works here; 1: something that it needs does not.",
    )
    made.add_argument("--cache", metavar="DIR", help=f"the training cache; default: PROVFL_CACHE, or {CACHE}")
    made.add_argument("--offline", action="store_true", help="do not ask the hub")
    made.add_argument("--json", action="store_true", help="one JSON object, for scripts")
    args = read(made, arguments)
    if args is None:
        return 0
    found: list[Finding] = []
    looks: Iterator[Finding] | None = None
    while True:
        with waiting("training and tracing a tiny federation" if len(found) > 3 else "loading libraries"):
            looks = looks or health.findings(cache_named(args.cache), not args.offline)
            finding = next(looks, None)
        if finding is None:
            break
        found.append(finding)
        if not args.json:
            say(f"{MARKS[finding.ok]:<6}{finding.name:<10} {finding.said}")
    well = all(finding.ok is not False for finding in found)
    if args.json:
        say(files.json_text({"ok": well, "findings": [asdict(finding) for finding in found]}), end="")
    elif not well:
        say("\nwhat fails is needed by every run")
    return 0 if well else 1


def cache_named(place: str | None) -> Path:
    """The training cache that is meant where a command names `place`, or none."""
    return Path(place or os.environ.get("PROVFL_CACHE") or CACHE)
