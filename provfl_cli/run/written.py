"""The files that a run leaves in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..reporting.tables import localization_tables, to_latex, to_markdown
from ..results.checksums import TOKENIZER
from ..results.files import write_csv, write_parquet, write_text
from .tracing import TracedRound

WRITTEN = {
    "table.md": "localization accuracy beside chance (table.tex: the same for a paper)",
    "localization.csv": "every metric, by method and round",
    "contributions.parquet": "each client's contribution to each traced prediction",
    "inputs.parquet": "the traced inputs; layers.parquet: a sample of them, layer by layer",
    "summary.json": "the final figures",
    "participation.csv": "who took part when; clients.csv: training examples of each client by label",
    "manifest.json": "versions, data, times, memory; metrics.jsonl: the rounds",
    TOKENIZER: "turns texts into the tokens that the model reads",
    "lineage.png": "how clients' shares of a label fade over the rounds (lineage.pdf: for a paper)",
    "tensorboard": "event files for TensorBoard",
    "wandb": "the run of Weights & Biases",
    "flower.log": "what Flower and Ray had to say",
    "rounds": "the models of the rounds kept, in the training cache",
}


def write_traces(folder: Path, traced: Sequence[TracedRound], contributions: pd.DataFrame) -> None:
    """Write the contributions, the inputs of all traced rounds and the layers of a sample of them."""
    write_parquet(folder / "contributions.parquet", contributions)
    inputs = pd.concat([traced_round.inputs for traced_round in traced], ignore_index=True)
    write_parquet(folder / "inputs.parquet", inputs)
    layers = pd.concat([traced_round.layers for traced_round in traced], ignore_index=True)
    write_parquet(folder / "layers.parquet", layers)


def write_scores(folder: Path, scores: pd.DataFrame, note: str) -> None:
    """Write every metric, and the tables of them with `note` below."""
    write_csv(folder / "localization.csv", scores)
    tables = localization_tables(scores)
    write_text(folder / "table.md", to_markdown(tables, note))
    write_text(folder / "table.tex", to_latex(tables, note))
