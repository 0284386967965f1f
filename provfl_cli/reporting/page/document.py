"""The page: data of the runs, templates, style and script in one file that asks for nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ...comparison.settings import common, differing, value, written
from ...config.stored_config import leaves
from ...harmless import harmless_lines, harmless_values
from ...imports import later
from ...results.folders import MissingRun, RunFolder
from ...results.run import RunContents, read_contents
from ..table import Table
from ..tables import localization_tables
from . import clients, sweeps
from .responses import shown_responses
from .summary import Figure, figures
from .swept import swept
from .traces import layer_profiles, shown_inputs, shown_traces
from .verdict import Verdict, verdict
from .without import what_ifs

if TYPE_CHECKING:
    import jinja2
else:
    jinja2 = later("jinja2")

DETAILED = 8  # runs that are shown in full
CELLS = 2_400_000  # numbers in the maps of all runs together
SCORES_SHOWN = 20_000  # of a diagnosis
INPUT_BYTES = 3_000_000  # pictures and texts of all runs together
SCRIPTS = (
    "page.js",
    "tables.js",
    "maps.js",
    "charts.js",
    "figures.js",
    "responses.js",
    "cards.js",
    "compare.js",
    "client.js",
    "copy.js",
    "without.js",
    "main.js",
)
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class PageRun:
    """One run as the templates want it; `data` is what the script draws from."""

    name: str
    title: str
    verdict: Verdict
    figures: Sequence[Figure]
    facts: Sequence[tuple[str, str]]
    tables: Sequence[Table]
    config: Sequence[tuple[str, str]]
    manifest: Sequence[tuple[str, str]]
    warnings: Sequence[str]
    told: Sequence[str]
    recorded: bool
    faulty: Sequence[int]
    data: Mapping[str, Any]


def page(runs: Sequence[RunFolder], absent: Sequence[MissingRun] = ()) -> str:
    """The page of one or more runs; of more than eight the first eight are shown in full."""
    return _page((read_contents(run) for run in runs[:DETAILED]), runs, absent)


def page_of(opened: RunContents, live: bool = False) -> str:
    """The page of one run, or of a recorded federation, that has been read.

    `live`: it is served by this machine (`cli/serving.py`), which it may ask what would be without some clients.
    """
    return _page([opened], [opened.run], (), live)


def _page(
    opened: Iterable[RunContents], runs: Sequence[RunFolder], absent: Sequence[MissingRun], live: bool = False
) -> str:
    names = _names(runs)
    count = min(len(runs), DETAILED)
    detailed = [
        _shown(contents, name, CELLS // count, INPUT_BYTES // count)
        for contents, name in zip(opened, names, strict=False)
    ]
    several = len(runs) > 1 or bool(absent)
    table, lines = sweeps.joined_table(runs, absent) if several else (None, [])
    curves = sweeps.curves(runs) if len(runs) > 1 else []
    together = swept(
        [each.verdict for each in detailed], names[:count], [each.faulty for each in detailed], len(runs), absent
    )
    data = {
        "runs": [page_run.data for page_run in detailed],
        "curves": curves,
        "live": live,
        "compared": [
            {"name": name, **sweeps.summary_of(run)} for run, name in zip(runs, names, strict=True) if len(runs) > 1
        ],
    }
    parts = "\n".join(_static(name) for name in SCRIPTS)
    script = f"(() => {{\n'use strict';\n{parts}}})();"
    plotly = _plotly()
    return _template(
        names=names,
        runs=detailed,
        sweep=together,
        table=table,
        lines=lines,
        curves=curves,
        total=len(runs),
        data=safe_json(harmless_values(data)),
        style=_trusted(_static("page.css")),
        script=_trusted(script),
        plotly=_trusted(plotly),
        live=live,
        policy=_policy([plotly, script], live),
    )


def _shown(opened: RunContents, name: str, cells: int, room: int) -> PageRun:
    run = opened.run
    traces, told = shown_traces(opened, cells)
    numbers = sorted({number for trace in traces for number in trace["inputs"]})
    inputs, cut = shown_inputs(opened, numbers, room)
    spoken, unspoken = shown_responses(opened, numbers, cells)
    told_first = verdict(opened)
    scores = run.scores[run.scores["round"] == run.scores["round"].max()]
    several_rounds = run.scores["round"].nunique() > 1
    data = {
        "name": name,
        "own": run.figures.get("method"),
        "fingerprint": opened.manifest.get("dataset", {}).get("fingerprint"),
        "labels": list(opened.labels),
        "explains": opened.explains,
        "clients": clients.client_data(opened),
        "participation": clients.participation(opened),
        "lineage": clients.lineage(opened),
        "history": [{key: row.get(key) for key in ("round", "accuracy", "loss", "clients")} for row in opened.history],
        "scores": _scores(run),
        "several": several_rounds and "localization_accuracy" in run.scores,
        "truth": "lds" in scores and bool(scores["lds"].notna().any()),
        "faults": "fault_accuracy" in scores and bool(scores["fault_accuracy"].notna().any()),
        "traces": traces,
        "inputs": inputs,
        "layers": layer_profiles(opened),
        "tokens": spoken,
        "without": what_ifs(opened),
        "diagnosis": _scores_of(opened),
        "first": told_first.clients[0].client if told_first.clients else None,
    }
    return PageRun(
        name=name,
        title=common([run], ()) or name,
        verdict=told_first,
        figures=figures(opened),
        facts=_facts(opened) if opened.recorded is None else opened.recorded,
        tables=localization_tables(scores, opened.truth) if len(scores) else [],
        config=[(key, written(value)) for key, value in run.settings.items()],
        manifest=[(key, written(value)) for key, value in leaves(opened.manifest)],
        warnings=opened.warnings,
        told=(*told, *cut, *unspoken, *opened.notes),
        recorded=opened.recorded is not None,
        faulty=opened.faulty,
        data=data,
    )


def _scores_of(opened: RunContents) -> dict[str, Any] | None:
    """Of a diagnosis what the page of a client shows."""
    found = opened.diagnosis
    if found is None:
        return None
    return {
        "suspects": [
            {"client": one.client, "corrected": one.corrected, "broken": one.broken, "since": one.since}
            for one in found.suspects
        ],
        "scores": [asdict(one) for one in found.scores[:SCORES_SHOWN]],
    }


def _scores(run: RunFolder) -> list[dict[str, Any]]:
    wanted = [
        name
        for name in ("localization_accuracy", "chance_accuracy", "majority_accuracy", "majority_chance",
                     "spearman_counts", "fault_accuracy", "fault_chance", "lds")
        if name in run.scores and run.scores[name].notna().any()
    ]  # fmt: skip
    rows = run.scores[["method", "scope", "round", *wanted]].to_dict("records")
    chance = {"lds_chance": 0.0} if "lds" in wanted else {}
    return [{str(key): value for key, value in row.items()} | chance for row in rows]


def _facts(opened: RunContents) -> list[tuple[str, str]]:
    """What was run, for somebody who has not seen the configuration."""
    run, manifest = opened.run, opened.manifest
    data, seconds = manifest.get("dataset", {}), manifest.get("seconds", {})
    chosen = {group: option for group, option in run.chosen.items() if option not in (None, "none")}
    size = f" ({data['train_examples']:,} + {data['test_examples']:,} examples)" if "train_examples" in data else ""
    rounds, a_round = run.settings.get("federation.rounds"), run.settings.get("federation.clients_per_round")
    facts = [
        ("data", f"{run.figures.get('dataset', chosen.get('dataset'))}{size}"),
        ("model", str(run.figures.get("model", chosen.get("model")))),
        ("clients", f"{len(opened.clients):,}{f', {a_round} a round' if a_round else ''}"),
        ("rounds", str(rounds)),
        ("fusion", str(chosen.get("fusion", run.figures.get("fusion")))),
        ("partition", str(chosen["partition"]) if "partition" in chosen else ""),
        ("fault planted", f"{chosen['injection']} (clients {', '.join(map(str, opened.faulty)) or 'none'})"
         if "injection" in chosen else ""),
        ("privacy", str(run.figures.get("privacy") or "")),
        ("traced", f"{run.figures.get('inputs', 0):,} predictions of round {run.figures.get('round')} by "
                   f"{run.figures.get('method')}"),
        ("seed", str(run.seed)),
        ("time", f"{seconds['total']:,.1f} s" if "total" in seconds else ""),
        ("note", str(data.get("note") or "")),
    ]  # fmt: skip
    return [(name, text) for name, text in facts if text]


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """What runs are called: the settings in which they differ, and their folder."""
    keys = (*differing(runs).keys, "seed") if len(runs) > 1 else ()
    names = []
    for run in runs:
        said = " ".join(f"{key}={value(run, key)}" for key in keys)
        near, whole = os.path.relpath(run.folder), str(run.folder.absolute())
        folder = whole if near.startswith("..") else near
        names.append(f"{folder}: {said}" if said else folder)
    return names


def safe_json(data: Any) -> Markup:
    """JSON that stays data wherever it stands in a page: `<`, `>`, `&` and U+2028, U+2029 as escapes; no NaN."""
    text = json.dumps(_finite(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    return _trusted(text.translate(_ESCAPES))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _policy(scripts: Sequence[str], live: bool) -> str:
    """What the page may do: run its own two scripts, show pictures that it brings, and nothing over a network.

    Where it is served, it may also ask who serves it.
    """
    allowed = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    ) + ("; connect-src 'self'" if live else "")


def _template(**values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        finalize=_harmless,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(**values)


def _harmless(value: Any) -> Any:
    """What a template shows, before it is escaped; our own files and JSON (`Markup`) as they are."""
    return harmless_lines(value) if type(value) is str else value


def _trusted(text: str) -> Markup:
    """Text that goes into the page as it is: our own files, and JSON made safe."""
    return Markup(text)


def _static(name: str) -> str:
    return (files(__package__) / "static" / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """The library that draws curves, as the plotly package ships it."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
