"""Run folders with scores alone, made up: what tables are joined from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

CONFIG: dict[str, Any] = {
    "seed": 0,
    "threshold": 0.0,
    "dataset": {"name": "digits"},
    "partition": {"alpha": 0.3, "min_examples_per_label": 10},
    "fusion": {"_target_": "x.FedAvg"},
    "privacy": {"_target_": "x.NoPrivacy"},
    "federation": {"rounds": 5, "learning_rate": 0.01, "joins": None},
    "store": {"cache": "${oc.env:PROVFL_CACHE,outputs/cache}"},
    "evaluation": {"min_examples": "${partition.min_examples_per_label}"},
    "provenance": {"threshold": "${threshold}", "rounds": "last"},
}
CHOICES = {
    "dataset": "digits",
    "fusion": "fedavg",
    "privacy": "none",
    "provenance": "provfl",
    "hydra/launcher": "basic",
}


def made(
    folder: Path,
    accuracy: dict[str, float] | None = None,
    overrides: tuple[str, ...] = (),
    fusion: str | None = None,
    scopes: tuple[str, ...] = ("round",),
    rounds: tuple[int, ...] = (5,),
    summary: dict[str, Any] | None = None,
    **figures: float,
) -> Path:
    """A run folder as `provfl run` leaves it, with `accuracy` by method; `overrides` are put into its configuration."""
    config = json.loads(json.dumps(CONFIG))
    for override in overrides:
        key, _, text = override.partition("=")
        *blocks, last = key.split(".")
        block = config
        for name in blocks:
            block = block[name]
        block[last] = yaml.safe_load(text)
    choices = CHOICES | ({"fusion": fusion} if fusion else {})
    if fusion:
        config["fusion"] = {"_target_": f"x.{fusion}", "strength": 1.0}
        config["federation"]["learning_rate"] = {"scaffold": 0.02}.get(fusion, 0.01)
    hydra = folder / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "config.yaml").write_text(yaml.safe_dump(config))
    (hydra / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": {"choices": choices}}}))
    settings = [*overrides, *([f"fusion={fusion}"] if fusion else [])]
    (hydra / "overrides.yaml").write_text(yaml.safe_dump(settings))
    rows = [
        {
            "method": method, "scope": scope, "target": "logit", "round": number, "inputs": 40,
            "localization_accuracy": value - 0.1 * (scope == "lineage") - 0.01 * (5 - number), "chance_accuracy": 0.5,
            "majority_accuracy": value / 2, "majority_chance": 0.1, "spearman_counts": value - 0.3,
            "ndcg": value, "ndcg_chance": 0.7, "fault_inputs": 0, **figures,
        }
        for method, value in (accuracy or {"provfl": 0.9, "tracefl": 0.8}).items()
        for scope in scopes
        for number in rounds
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "localization.csv", index=False)
    metrics = [{"round": number, "accuracy": number / 10} for number in range(1, 6)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    own = {
        "round": max(rounds),
        "global_accuracy": 0.5,
        "conservation_residual": 1e-7,
        "epsilon": None,
        "privacy": None,
    }
    (folder / "summary.json").write_text(json.dumps(own | (summary or {})))
    (folder / "manifest.json").write_text("{}")
    return folder
