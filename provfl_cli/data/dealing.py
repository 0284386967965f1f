"""Who was dealt which training examples, kept in the training cache: dealing takes two milliseconds a client.

And its libraries take half a second to import, which a run of which all else is in the cache does without.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ..bounded import check_safetensors
from ..config.parts import Partition
from ..config.share import Share
from ..errors import RunError
from ..imports import later
from ..store.disk import replacing
from .partition import Limits, deal

if TYPE_CHECKING:
    import numpy as np
    import safetensors.numpy as files
else:
    np, files = later("numpy"), later("safetensors.numpy")

PARTITIONS = "partitions"  # in the training cache
DEALING = 1  # counts up whenever the same settings would deal otherwise
DEALERS = ("flwr-datasets", "datasets", "numpy")  # what their versions draw may differ


def dealt(partition: Partition, labels: np.ndarray, clients: int, seed: int, cache: Path) -> tuple[Share, ...]:
    """Every client's share of the training examples, as `deal` gives it: out of the cache, or dealt and kept there.

    No cache is made for it: what follows may turn out to be wrong input, which leaves nothing behind. What is damaged
    is dealt again. A partition of the user's own is never kept: its code may change.

    Raises:
        InputError: as of `deal`.
    """
    if type(partition).__module__ != Limits.__module__:
        return deal(partition, labels, clients, seed)
    file = cache / PARTITIONS / f"{_key(partition, labels, clients, seed)}.safetensors"
    kept = _read(file, labels, clients)
    if kept is None:
        kept = deal(partition, labels, clients, seed)
        if cache.is_dir():
            with suppress(OSError, RunError):  # one that cannot be written to is refused where training needs it
                _write(file, kept)
    return kept


def _key(partition: Partition, labels: np.ndarray, clients: int, seed: int) -> str:
    """Of all that determines who gets what, 20 hexadecimal digits."""
    limits = {entry.name for entry in fields(Limits)}  # which are applied later
    own = {name: value for name, value in asdict(partition).items() if name not in limits}  # type: ignore[call-overload]
    settings = [type(partition).__name__, own, clients, seed]
    determines = [DEALING, [version(name) for name in DEALERS], settings, str(labels.dtype), len(labels)]
    digest = hashlib.sha256(json.dumps(determines, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(labels).tobytes())
    return digest.hexdigest()[:20]


def _write(file: Path, shares: tuple[Share, ...]) -> None:
    counts = np.array([len(share.indices) for share in shares], dtype=np.int64)
    indices = np.concatenate([share.indices for share in shares])
    content = {"counts": counts, "indices": indices, "sha256": _digest(counts, indices)}
    with replacing(file) as temporary:
        temporary.write_bytes(files.save(content))


def _digest(counts: np.ndarray, indices: np.ndarray) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(counts.tobytes() + indices.tobytes()).digest(), dtype=np.uint8)


def _read(file: Path, labels: np.ndarray, clients: int) -> tuple[Share, ...] | None:
    """The shares in a file; None where there is none, or it is not what was written."""
    if not file.is_file():
        return None
    try:
        check_safetensors(file)
        content = files.load(file.read_bytes())
        counts, indices = content["counts"], content["indices"].copy()  # what comes from a file cannot be written to
        whole = len(counts) == clients and np.array_equal(content["sha256"], _digest(counts, indices))
    except Exception:  # whatever is there instead
        return None
    if not whole:
        return None
    parts = np.split(indices, np.cumsum(counts)[:-1])
    return tuple(Share(client, part, labels[part]) for client, part in enumerate(parts))
