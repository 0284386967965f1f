"""Prompts and responses of several domains, each a dataset of the hub of its own (`dataset.domains`)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..config.schema import Dataset
from . import hub
from .split import Split
from .splits import HOLD_OUT_SEED, joined

NO_COLUMN = ""  # of labels: the name of the domain is the label


def read(dataset: Dataset) -> tuple[dict[str, Split], str]:
    """The training examples of every domain, labelled by it, and where they are from.

    Of each at most `dataset.per_domain`, the same ones whatever the run's seed.

    Raises:
        InputError: as of `hub.read`.
    """
    parts, origins = [], []
    for number, (name, settings) in enumerate((dataset.domains or {}).items()):
        one = replace(dataset, **{"revision": "main", **settings}, domains=None, label_column=NO_COLUMN)
        splits, revision = hub.read(one)
        split, most = splits["train"], dataset.per_domain
        rows = np.arange(len(split.cells))
        if most is not None and most < len(rows):
            rows = np.sort(np.random.default_rng([HOLD_OUT_SEED, number]).permutation(rows)[:most])
        cells = [split.cells[row] for row in rows.tolist()]
        parts.append(Split(cells, [name] * len(cells), notes=split.notes))
        origins.append(f"{name}: {one.hub_id}@{revision}")
    return {"train": joined(parts)}, ", ".join(origins)
