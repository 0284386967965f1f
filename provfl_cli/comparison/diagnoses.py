"""Diagnoses of federations whose faulty clients are known: who is named, who is not, and who wrongly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..bounded import read_json
from ..evaluation.backdoor import works
from ..imports import later
from ..results import diagnosis
from ..results.folders import RunFolder

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = later("pandas")

COLUMNS = (
    "task", "seed", "planted", "named", "found", "missed", "false", "votes_found", "votes_false", "accuracy_before",
    "accuracy_after", "corrected", "broken", "inputs", "reason", "attack_works", "sentence",
)  # fmt: skip


def diagnoses(runs: Mapping[str, Sequence[RunFolder]]) -> pd.DataFrame:
    """A row a federation, in the columns `COLUMNS`; runs without a diagnosis are left out.

    Beside the clients named stand those that top-1 votes state (`evaluation/planted.py`: on top of mistakes
    significantly often, by the run's own method in the round).

    Args:
        runs: of each task those that ended well.
    """
    rows = [row for task, made in runs.items() for run in made if (row := _row(task, run)) is not None]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(task: str, run: RunFolder) -> dict[str, Any] | None:
    found = diagnosis.read(run.folder)
    if found is None:
        return None
    manifest = read_json(run.folder / "manifest.json")
    planted, named = set(manifest["clients"]["faulty"]), {suspect.client for suspect in found.suspects}
    kept = {int(client) for client in manifest["clients"]["kept"]}
    votes_found, votes_false = _votes(run, len(planted), len(kept))
    with_trigger, without = (run.figures.get(f"attack_success{end}") for end in ("", "_untriggered"))
    return {
        "task": task,
        "seed": run.seed,
        "planted": " ".join(map(str, sorted(planted))),
        "named": " ".join(map(str, sorted(named))),
        "found": len(planted & named),
        "missed": len(planted - named),
        "false": len(named - planted),
        "votes_found": votes_found,
        "votes_false": votes_false,
        "accuracy_before": found.accuracy_before,
        "accuracy_after": found.accuracy_after,
        "corrected": found.corrected,
        "broken": found.broken,
        "inputs": found.inputs,
        "reason": found.suspects[0].reasons[0] if found.suspects else "",
        "attack_works": None if with_trigger is None or without is None else works(with_trigger, without),
        "sentence": found.sentence,
    }


def _votes(run: RunFolder, planted: int, kept: int) -> tuple[float | None, float | None]:
    """How many planted and other clients votes state; None where no mistakes were traced."""
    own = run.scores
    own = own[(own["method"] == run.figures.get("method")) & (own["scope"] == "round")]
    if not len(own) or "stated_clients" not in own or pd.isna(own.iloc[-1]["stated_clients"]):
        return None, None
    row = own.iloc[-1]
    found = 0 if pd.isna(row["stated_fnr"]) else round(planted * (1 - row["stated_fnr"]))
    return found, int(row["stated_clients"]) - found
