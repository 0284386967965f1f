"""`manifest.json` of a run folder: the key of its federation, and the checksums of the files that answers depend on.

The manifest states its own checksum too, and each stored round those of its tensors: whatever a trace, a page or a
table is made of is covered, against damage and mixed-up files (`sealed.py`: not against somebody who means to deceive).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..bounded import read_json
from ..store.disk import checksum
from ..store.sealed import Damaged, check_seal, sealed
from .documents import check_manifest
from .wrong import WrongContent

FORMAT = 2
FILE = "manifest.json"
SETTINGS = (".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml")
FIGURES = ("summary.json", "localization.csv", "metrics.jsonl")
TABLES = (
    "contributions.parquet", "inputs.parquet", "layers.parquet", "participation.csv", "clients.csv", "retrainings.csv",
    "retrained.parquet", "retraining.csv", "tokens.parquet",
)  # fmt: skip
TOKENIZER = "tokenizer.json"  # where inputs are texts
SUSPICION = "suspicion.csv"  # where clients are suspected
DIAGNOSIS = "diagnosis.json"  # where labels are classes
BASE = "base.safetensors"  # where a base model was made here, and part of it stays as it is
COVERED = (*SETTINGS, *FIGURES, *TABLES, TOKENIZER, SUSPICION, DIAGNOSIS, BASE)


def covering(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest that covers the files of `folder` as they are now; `content` is what else it says."""
    files = {name: checksum(folder / name) for name in COVERED if (folder / name).is_file()}
    return sealed({"format": FORMAT, **content, "files": files})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder, compared with its own checksum.

    Raises:
        FileNotFoundError: there is none.
        Damaged: its checksum differs or is missing, it is too large, no JSON, or says what no run writes.
        OSError: it cannot be read.
    """
    try:
        content = read_json(folder / FILE)
    except ValueError as error:
        raise Damaged(str(error)) from error
    check_seal(content, FORMAT)
    try:
        check_manifest(content)
    except WrongContent as error:
        raise Damaged(str(error)) from error
    return content


def damage(folder: Path, manifest: Mapping[str, Any], names: Iterable[str] = COVERED) -> str | None:
    """What is wrong with the first of these files that is not as the run wrote it; None where all are.

    Runs of a time before checksums are taken as they are.
    """
    files = manifest.get("files")
    if files is None:
        return None
    for name in names:
        path = folder / name
        if name not in files:
            if path.exists():
                return f"{name} is not of this run: {FILE} does not list it"
        elif not path.is_file():
            return f"{name} is missing"
        elif checksum(path) != files[name]:
            return f"{name} cannot be read: damaged, or of another run (its checksum differs from the one in {FILE})"
    return None
