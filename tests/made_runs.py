"""Whole run folders made up in memory: what a page and figures need, without training anything."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from provfl_cli.evaluation.contributions import tidy
from provfl_cli.pixels import png
from provfl_cli.results import label_counts
from provfl_cli.results.files import write_csv, write_parquet
from tests.scored_runs import made

LABELS = ("cat", "<script>alert(1)</script>", "dog & bone")
METRICS = {"chance_corrected": 0.8, "best_constant": 0.7, "tie_rate": 0.0, "gap": 0.1}  # `made` has none of these
TEXT = "</script><img src=x onerror=alert(2)> \u2028 words"


def whole_run(
    folder: Path,
    clients: int = 5,
    inputs: int = 12,
    labels: tuple[str, ...] = LABELS,
    texts: bool = False,
    rounds: tuple[int, ...] = (5,),
    scopes: tuple[str, ...] = ("round",),
    faulty: tuple[int, ...] = (),
    size: int = 8,
    seed: int = 0,
    methods: tuple[str, ...] = ("provfl", "tracefl"),
) -> Path:
    """A run folder with every file that a page reads; a quarter of its predictions are wrong.

    The top client of an input is the one whose number is that of the label, modulo the number of clients; the first
    input has its two best clients tied.
    """
    summary = {"method": "provfl", "seed": seed}
    made(folder, rounds=rounds, scopes=scopes, overrides=(f"seed={seed}",), summary=summary, **METRICS)
    random = np.random.default_rng(seed)
    numbers = np.arange(inputs) * 2
    true = np.arange(inputs) % len(labels)
    predicted = np.where(np.arange(inputs) % 4 == 3, (true + 1) % len(labels), true)
    values = random.normal(size=(inputs, clients)).clip(-1, 1)
    values[np.arange(inputs), true % clients] = 3.0
    if clients > 3:
        values[0, 3] = 3.0
    rest = {"momentum": random.normal(size=inputs)}
    traced = [
        tidy(method, scope, "logit", number, numbers, true, predicted, range(clients), np.ones(clients, bool),
             values * (2 if method == "tracefl" else 1), rest if method == "provfl" else {})
        for number in rounds
        for method in methods
        for scope in (scopes if method == "provfl" else ("round",))
    ]  # fmt: skip
    write_parquet(folder / "contributions.parquet", pd.concat(traced, ignore_index=True))
    probabilities = np.eye(len(labels))[predicted] * 0.9 + 0.1 / len(labels)
    shown = (
        {"text": [f"{TEXT} {number}" for number in numbers]}
        if texts
        else {"picture": [png(random.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in numbers]}
    )
    frame = {"round": max(rounds), "input": numbers, "label": true, "prediction": predicted, "residual": 1e-7}
    write_parquet(folder / "inputs.parquet", pd.DataFrame(frame | {"probabilities": list(probabilities)} | shown))
    layers = [
        (max(rounds), number, layer, client, values[at, client] / 2, 3, 8)
        for at, number in enumerate(numbers[:4])
        for layer in ("conv1", "<b>fc</b>")
        for client in range(clients)
    ]
    columns = ["round", "input", "layer", "client", "contribution", "active_neurons", "neurons"]
    write_parquet(folder / "layers.parquet", pd.DataFrame(layers, columns=columns))
    who = [
        (number, client, "dropped" if (number + client) % 5 == 0 else "trained")
        for number in range(1, 6)
        for client in range(clients)
        if client or number < 5
    ]
    write_csv(folder / "participation.csv", pd.DataFrame(who, columns=["round", "client", "status"]))
    counts = {client: random.integers(0, 40, len(labels)) for client in range(clients)}
    write_csv(folder / label_counts.FILE, label_counts.frame(counts))
    manifest = {
        "dataset": {
            "name": "made",
            "labels": list(labels),
            "fingerprint": "f",
            "train_examples": 9,
            "test_examples": 9,
        },
        "clients": {"kept": {str(client): int(row.sum()) for client, row in counts.items()}, "faulty": list(faulty)},
        "seconds": {"total": 1.0},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
