"""What Flower's messages carry, as tensors and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, RecordDict
from flwr.supercore import log as flower_log
from torch import Tensor

from ..harmless import harmless
from ..recording.rounds import NotRecorded
from .serialized import tensor

EXAMPLES = "num-examples"  # the metric by which Flower's strategies weigh clients unless they are told another

Node = int | str
"""By what Flower tells its clients apart: a number, or the text of its old interface."""


@dataclass(frozen=True)
class Reply:
    """What a client returned: its arrays as they were sent, which nobody changes, and its metrics."""

    node: Node
    arrays: Mapping[str, Array]
    metrics: Mapping[str, object]


def log(level: int, text: str, *values: object) -> None:
    """Flower's log; `values`, which may come from clients, made harmless."""
    flower_log(level, text, *(value if isinstance(value, int) else harmless(str(value)) for value in values))


def tensors(record: Mapping[str, Array]) -> dict[str, Tensor]:
    """The arrays of a record as tensors, by name."""
    return {name: tensor(array) for name, array in record.items()}


def arrays_of(content: RecordDict, key: str | None) -> ArrayRecord:
    """The model in a message: its only array record, or of several the one under `key`.

    Raises:
        NotRecorded: there is none, or it cannot be told which.
    """
    records = content.array_records
    if len(records) == 1:
        return next(iter(records.values()))
    if key is not None and key in records:
        return records[key]
    there = ", ".join(records) or "none"
    raise NotRecorded(f"a message must carry one array record, the model, and has {there}")


def metrics_of(content: RecordDict) -> dict[str, object]:
    """The metrics of a message, from whichever of its records."""
    metrics: dict[str, object] = {}
    for record in content.metric_records.values():
        for name, value in record.items():
            metrics.setdefault(name, value)
    return metrics


def weight_of(metrics: Mapping[str, object], key: str) -> float:
    """The number by which a strategy weighs a reply.

    Raises:
        NotRecorded: there is no such metric, or it is no number.
    """
    value = metrics.get(key)
    if not isinstance(value, int | float):
        there = ", ".join(sorted(metrics))
        raise NotRecorded(
            f"the reply has no number under the weight key {key!r} (its metrics: {there or 'none'}): "
            "let the client send it, or name another with weight_key"
        )
    return float(value)


def same_arrays(record: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    """Whether two records hold the same arrays, byte for byte."""
    return record is other or (
        record.keys() == other.keys()
        and all(
            array is other[name] or (array.dtype == other[name].dtype and array.data == other[name].data)
            for name, array in record.items()
        )
    )
