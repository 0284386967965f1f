"""A round that is being stored: it is written into a temporary folder beside its place, and renamed into it when whole.

Its files and their format are those of `rounds`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError
from ..fusion.buffered import Buffered
from ..fusion.decomposition import Decomposition
from ..fusion.lineage import NextLineage
from ..fusion.lineage_rows import LineageRows
from .disk import checksum, flush
from .manifest import metrics_values, round_values
from .rounds import (
    BASES,
    CLIENTS,
    DECOMPOSITION,
    FORMAT,
    GLOBAL,
    INITIAL,
    LINEAGE,
    MANIFEST,
    NEXT_STATE,
    PREVIOUS,
    STATE,
    Metrics,
    Round,
    lineage_part,
    read_round,
    remove_round,
    round_folder,
)
from .sealed import sealed
from .tensorfile import Specs, allocate, stacked, write_pieces, write_tensors

if TYPE_CHECKING:
    from torch import Tensor


def begin_round(rounds: Path, number: int, specs: Specs, clients: int) -> Path:
    """Make the temporary folder of a round, with room for what its clients will return; returns that folder.

    Raises:
        RunError: something that is no folder has the round's name.
        OSError: the disk is full, or cannot be written to.
    """
    _require_way(rounds, number)
    temporary = rounds / f".{number:04d}.partial"
    temporary.mkdir(parents=True)
    allocate(temporary / CLIENTS, stacked(specs, clients))
    return temporary


def commit_round(
    temporary: Path,
    number: int,
    *,
    clients: Sequence[int],
    examples: Sequence[int],
    weights: Mapping[str, Tensor],
    previous: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    next_state: Mapping[str, Tensor],
    decomposition: Decomposition,
    buffers: frozenset[str],
    history: Sequence[Metrics],
    bases: Mapping[int, Mapping[str, Tensor]] | None = None,
    lineage: NextLineage | None = None,
    key: str | None = None,
    names: Sequence[str] = (),
    source: str = "",
    buffered: Buffered | None = None,
) -> Round:
    """Write what is missing beside the clients' tensors, and rename the temporary folder into place.

    Until the rename there is no such round; after it, it is whole, also when the machine loses its power. A round of
    that number that is there already, trained without the lineage that is wanted now, is replaced. `key`, `names`,
    `source` and `buffered` are those of `Round`.

    Raises:
        RunError: a number or name is none that a round may have.
    """
    rounds = temporary.parent
    known: dict[str, str] = {}  # checksums of files that were there before
    write_tensors(temporary / GLOBAL, weights)
    write_tensors(temporary / NEXT_STATE, next_state)
    before = round_folder(rounds, number - 1)
    _link_or_write(before / GLOBAL, temporary / PREVIOUS, previous)
    _link_or_write(before / NEXT_STATE, temporary / STATE, state)
    parts = {
        f"multiplier:{factor.name}/{name}": getattr(multiplier, factor.name)
        for name, multiplier in decomposition.multipliers.items()
        for factor in fields(multiplier)
        if getattr(multiplier, factor.name) is not None
    }
    for kind, tensors in decomposition.unsent.items():
        parts.update({f"unsent:{kind}/{name}": tensor for name, tensor in tensors.items()})
    if parts:
        write_tensors(temporary / DECOMPOSITION, parts)
    if bases:
        late = {f"{position}/{name}": base[name] for position, base in sorted(bases.items()) for name in base}
        write_tensors(temporary / BASES, late)
    if lineage is not None:
        allocate(temporary / LINEAGE, lineage.specs)
        pieces = ((piece.name, piece.row, piece.start, piece.values) for piece in lineage.pieces)
        write_pieces(temporary / LINEAGE, pieces)
        known |= _link_lineage(rounds, number, temporary, lineage.rows)
        initial = before / INITIAL if number > 1 else temporary / PREVIOUS
        _link_or_write(initial, temporary / INITIAL, lineage.initial)
    manifest = {
        "format": FORMAT,
        "number": number,
        "clients": list(clients),
        "examples": list(examples),
        "example_weights": decomposition.example_weights.tolist(),
        "buffers": sorted(buffers),
        "history": [_written(metrics) for metrics in history],
        "checksums": {
            file.name: known.get(file.name) or checksum(file) for file in sorted(temporary.glob("[!.]*.safetensors"))
        },
    }
    if key is not None:
        manifest["key"] = key
    if source:
        manifest |= {"source": source, "names": list(names)}
    if decomposition.products:
        manifest["products"] = True
    if buffered is not None:
        manifest["buffered"] = asdict(buffered)
    if lineage is not None:
        manifest["lineage"] = asdict(lineage.rows)
    written = sealed(manifest)
    try:
        round_values(written)
        metrics_values(written)
    except ValueError as error:  # never a round that could not be read again
        raise RunError(f"round {number} cannot be stored: {error}") from error
    (temporary / MANIFEST).write_text(json.dumps(written, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for file in temporary.iterdir():
        flush(file)
    flush(temporary)
    _require_way(rounds, number)
    if round_folder(rounds, number).exists():
        remove_round(rounds, number)
    temporary.rename(round_folder(rounds, number))
    flush(rounds)
    return read_round(rounds, number)


def _link_lineage(rounds: Path, number: int, temporary: Path, rows: LineageRows) -> dict[str, str]:
    """Let the folder of a round have the files of earlier rounds that hold rows of its lineage; their checksums."""
    earlier = sorted({*rows.held} - {number})
    if not earlier:
        return {}
    before, folder = read_round(rounds, number - 1).checksums, round_folder(rounds, number - 1)
    known = {}
    for held in earlier:
        there, here = LINEAGE if held == number - 1 else lineage_part(held), lineage_part(held)
        if not _linked(folder / there, temporary / here):
            shutil.copyfile(folder / there, temporary / here)
        known[here] = before[there]
    return known


def _require_way(rounds: Path, number: int) -> None:
    """Raise RunError where something that is no folder has the name of the round."""
    folder = round_folder(rounds, number)
    if os.path.lexists(folder) and not folder.is_dir():
        raise RunError(f"{folder} is in the way of round {number}: not a folder; move it away")


def _written(metrics: Metrics) -> dict[str, Any]:
    """Metrics as JSON has them, which knows no NaN: null stands for a number that is not finite."""
    numbers = asdict(metrics)
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in numbers.items()
    }


def _link_or_write(source: Path, target: Path, tensors: Mapping[str, Tensor]) -> None:
    """Let `target` be the file that the round before already holds, or write it."""
    if not _linked(source, target):
        write_tensors(target, tensors)


def _linked(source: Path, target: Path) -> bool:
    """Give a file a second name; False where it is not there, or the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True
