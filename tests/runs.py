"""Small runs of `provfl run` on the digits of scikit-learn, and their folders read back."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from provfl_cli.cli import main

SMALL = shlex.split(
    "dataset=digits partition=iid federation.clients=3 federation.rounds=3 federation.local_epochs=2"
    " federation.learning_rate=0.05 partition.max_examples_per_client=150 dataset.max_test_examples=100"
    " evaluation.max_inputs=30 evaluation.inputs=all"
)
SMALLEST = [  # one round of two clients, with settings that refer to others and to the environment
    "dataset=digits", "dataset.name=${oc.env:PROVFL_SECRET}", "model=lenet", "partition=iid", "federation.clients=2",
    "federation.rounds=1", "federation.local_epochs=1", "partition.max_examples_per_client=40",
    "partition.min_examples_per_label=1", "partition.min_examples_per_client=1", "dataset.max_test_examples=20",
    "evaluation.max_inputs=4", "evaluation.inputs=all", "federation.batch_size=1${federation.clients}", "device=cpu",
]  # fmt: skip
FILES = {
    ".hydra",
    "manifest.json",
    "metrics.jsonl",
    "rounds",
    "contributions.parquet",
    "inputs.parquet",
    "layers.parquet",
    "localization.csv",
    "summary.json",
    "diagnosis.json",
    "table.md",
    "table.tex",
    "participation.csv",
    "clients.csv",
    "provfl.log",
}
TIMED = {"manifest.json", "metrics.jsonl", "summary.json"}  # the only files that may tell how long something took


@dataclass(frozen=True)
class Result:
    """A run folder, read back."""

    folder: Path

    def frame(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.folder / f"{name}.parquet")

    @property
    def scores(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "localization.csv")

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.folder / "manifest.json").read_text())

    @property
    def metrics(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    @property
    def stored(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "rounds").iterdir() if not path.name.startswith("."))

    def content(self) -> dict[str, bytes]:
        """Every file that must not depend on how long something took, those of the stored rounds among them."""
        own = {path.name: path for path in self.folder.iterdir() if path.is_file() and path.name not in TIMED}
        kept = (self.folder / "rounds").resolve()
        tensors = {str(path.relative_to(kept)): path for path in kept.rglob("*.safetensors")}
        return {name: path.read_bytes() for name, path in sorted({**own, **tensors}.items())}


def run(folder: Path, *overrides: str, cache: Path | None = None) -> Result:
    """A small run in `folder`, with a cache of its own unless one is given, in this process."""
    places = [f"hydra.run.dir='{folder}'", f"store.cache='{cache or folder.with_name(f'{folder.name} cache')}'"]
    assert main(["run", *SMALL, *places, *overrides]) == 0
    return Result(folder)
