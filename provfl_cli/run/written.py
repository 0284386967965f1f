"""The files that a run leaves in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..reporting.figure_files import write_figure
from ..reporting.lineage import figure
from ..reporting.tables import localization_tables, to_latex, to_markdown
from ..results.checksums import DIAGNOSIS, SUSPICION, TOKENIZER
from ..results.columns import TRUTH
from ..results.files import write_csv, write_parquet, write_text
from ..results.tokens import FILE as TOKENS
from .findings import Findings

WRITTEN = {
    DIAGNOSIS: "who is behind the mistakes, and what is without them (provfl diagnose asks anew)",
    "table.md": "localization accuracy beside chance (table.tex: the same for a paper)",
    "localization.csv": "every metric, by method and round",
    TRUTH: "each method against retraining, with 95% intervals",
    "contributions.parquet": "each client's contribution to each traced prediction",
    "inputs.parquet": "the traced inputs; layers.parquet: a sample of them, layer by layer",
    TOKENS: "each client's contribution to each token of the traced responses",
    SUSPICION: "what is suspected of each client, by score",
    "summary.json": "the final figures",
    "retrainings.csv": "federations trained again without clients; retrained.parquet: what they predict",
    "participation.csv": "who took part when; clients.csv: training examples of each client by label",
    "manifest.json": "versions, data, times, memory; metrics.jsonl: the rounds",
    TOKENIZER: "turns texts into the tokens that the model reads",
    "lineage.png": "how clients' shares of a label fade over the rounds (lineage.pdf: for a paper)",
    "tensorboard": "event files for TensorBoard",
    "wandb": "the run of Weights & Biases",
    "flower.log": "what Flower and Ray had to say",
    "rounds": "the models of the rounds kept, in the training cache",
}


def write_findings(folder: Path, findings: Findings, label_names: Sequence[str]) -> None:
    """Write contributions, traced inputs, layers of a sample of them, every metric, their tables and the figure."""
    write_parquet(folder / "contributions.parquet", findings.contributions)
    inputs = pd.concat([traced_round.inputs for traced_round in findings.traced], ignore_index=True)
    write_parquet(folder / "inputs.parquet", inputs)
    layers = pd.concat([traced_round.layers for traced_round in findings.traced], ignore_index=True)
    write_parquet(folder / "layers.parquet", layers)
    write_csv(folder / "localization.csv", findings.scores)
    tokens = [traced_round.tokens for traced_round in findings.traced if traced_round.tokens is not None]
    if tokens:
        write_parquet(folder / TOKENS, pd.concat(tokens, ignore_index=True))
    if findings.truth is not None:
        write_csv(folder / TRUTH, findings.truth)
    if (suspicion := findings.suspicion) is not None:
        write_csv(folder / SUSPICION, suspicion)
    tables = localization_tables(findings.scores, findings.truth)
    write_text(folder / "table.md", to_markdown(tables, findings.note))
    write_text(folder / "table.tex", to_latex(tables, findings.note))
    if findings.faded is not None:
        write_figure(folder, "lineage", figure(findings.faded, label_names))
