"""Columns of tensors from what PyTorch and Hugging Face call data: data loaders, datasets, dicts of lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..bounded import GIGABYTE, in_words
from ..coverage import printable
from ..errors import InputError, brief

MOST_INPUTS = 2_000
MOST_BYTES = GIGABYTE
POSITIONAL = ""  # the name of the only positional argument
LABELS = ("labels", "label")
MASK, IDS = "attention_mask", "input_ids"

Column = Tensor | list[str]


@dataclass(frozen=True)
class Columns:
    """Inputs and labels by name, each of the same number of rows; and what a reader has to know of them."""

    columns: dict[str, Column]
    notes: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()


def is_items(value: Any) -> bool:
    """Whether a value is read item by item."""
    return isinstance(value, DataLoader | Dataset) or _is_hub_dataset(value)


def read_items(value: Any, what: str, padding: int) -> Columns:
    """The first items of a data loader, a dataset of torch, or one of the library `datasets`.

    Args:
        value: see `is_items`.
        what: what it is called in an error.
        padding: token that pads, where nothing in the data shows it.

    Raises:
        InputError: an item is none that a model reads, or reading one fails.
    """
    parts, rows, size = list[dict[str, Column]](), 0, 0
    batched = isinstance(value, DataLoader) and value.batch_size is not None
    # What shuffles or augments does so from the same state each time: an input keeps its number.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            for item in _items(value):
                part = _part(item, what, batched)
                parts.append(part)
                rows += max(map(len, part.values()), default=0)
                size += sum(column.nbytes for column in part.values() if isinstance(column, Tensor))
                if rows >= MOST_INPUTS or size >= MOST_BYTES:
                    break
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # whatever reading an item does
            raise InputError(f"{what}: reading item {len(parts)} failed ({brief(error)})") from error
    if not parts:
        raise InputError(f"{what}: there is nothing in it")
    columns = {name: column[:MOST_INPUTS] for name, column in _joined(parts, what, padding).items()}
    rows = min(rows, MOST_INPUTS)
    return Columns(columns, tuple(_of_how_many(value, rows, size)), _class_names(value))


def columns_of(values: Mapping[Any, Any], what: str) -> dict[str, Column]:
    """Columns of a mapping of tensors, arrays and lists, as they are.

    Raises:
        InputError: one is something else.
    """
    return {str(name): _column(column, f"{what}: {printable(str(name))}") for name, column in values.items()}


def splits(value: Any) -> tuple[str, ...]:
    """Names of the splits of a `DatasetDict`; () of anything else."""
    if isinstance(value, Mapping) and value and all(_is_hub_dataset(part) for part in value.values()):
        return tuple(map(str, value))
    return ()


def _is_hub_dataset(value: Any) -> bool:
    """A `datasets.Dataset`, or one that is read as it comes; told without importing the library."""
    return hasattr(value, "column_names") and hasattr(value, "features") and not isinstance(value, Mapping)


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, DataLoader) or not hasattr(value, "__getitem__") or not hasattr(value, "__len__"):
        return islice(iter(value), MOST_INPUTS)
    return (value[number] for number in range(min(len(value), MOST_INPUTS)))


def _part(item: Any, what: str, batched: bool) -> dict[str, Column]:
    """One item, or batch, as columns."""
    if isinstance(item, Mapping):
        named = {str(name): value for name, value in item.items()}
    elif isinstance(item, tuple | list) and len(item) in (1, 2):
        inputs = item[0]
        named = {str(name): v for name, v in inputs.items()} if isinstance(inputs, Mapping) else {POSITIONAL: inputs}
        named |= {LABELS[0]: item[1]} if len(item) == 2 else {}
    elif isinstance(item, Tensor | np.ndarray):
        named = {POSITIONAL: item}
    else:
        raise InputError(
            f"{what}: an item is a {type(item).__name__}"
            f"{f' of {len(item)}' if isinstance(item, tuple | list) else ''}, give (inputs, label), or a dict of "
            "tensors by argument name"
        )
    columns = {}
    for name, value in named.items():
        called = f"{what}: {printable(name) if name else 'the inputs of an item'}"
        columns[name] = _column(value if batched or isinstance(value, str) else _row(value), called)
    return columns


def _row(value: Any) -> Any:
    """A value of one item as a column of one row."""
    if isinstance(value, Tensor | np.ndarray):
        return value[None]
    return [value]


def _column(value: Any, what: str) -> Column:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple) and value and all(isinstance(part, str) for part in value):
        return list(value)
    try:
        if isinstance(value, list | tuple) and value and all(isinstance(part, Tensor) for part in value):
            return torch.stack(list(value)).detach().cpu()
        return torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        inner = value[0] if isinstance(value, list | tuple) and value else value
        raise InputError(
            f"{what} is a {type(inner).__name__}, give tensors: the transform that the model was trained with makes "
            "them"
        ) from None


def _joined(parts: Sequence[Mapping[str, Column]], what: str, padding: int) -> dict[str, Column]:
    """The columns of all parts one below the other; texts of different lengths are padded where a mask hides it."""
    names = [name for name in parts[0] if all(name in part for part in parts)]
    pad = _padding_of(parts, padding)
    joined: dict[str, Column] = {}
    for name in names:
        columns = [part[name] for part in parts]
        if all(isinstance(column, list) for column in columns):
            joined[name] = [text for column in columns for text in column]
            continue
        tensors = [column for column in columns if isinstance(column, Tensor)]
        shapes = {tensor.shape[1:] for tensor in tensors}
        if len(tensors) < len(columns) or (len(shapes) > 1 and not (MASK in names and _are_tokens(tensors))):
            said = " and ".join(str(list(shape)) for shape in sorted(shapes, key=list)[:2])
            raise InputError(
                f"{what}: {printable(name) or 'its inputs'} differ in shape ({said}): pad them to one, or bring "
                f"an {MASK} along"
            )
        if len(shapes) > 1:
            tensors = _padded(tensors, pad if name == IDS else 0, _pads_left(parts))
        joined[name] = torch.cat(tensors)
    return joined


def _are_tokens(tensors: Sequence[Tensor]) -> bool:
    return all(tensor.dim() == 2 and not tensor.is_floating_point() for tensor in tensors)


def _padding_of(parts: Sequence[Mapping[str, Column]], otherwise: int) -> int:
    """The token that stands where the mask hides it."""
    for part in parts:
        mask, ids = part.get(MASK), part.get(IDS)
        if isinstance(mask, Tensor) and isinstance(ids, Tensor) and mask.shape == ids.shape and bool((mask == 0).any()):
            return int(ids[mask == 0][0])
    return otherwise


def _pads_left(parts: Sequence[Mapping[str, Column]]) -> bool:
    masks = [mask for part in parts if isinstance(mask := part.get(MASK), Tensor) and mask.numel()]
    return any(bool((mask[:, 0] == 0).any()) for mask in masks)


def _padded(tensors: Sequence[Tensor], padding: int, left: bool) -> list[Tensor]:
    width = max(tensor.shape[1] for tensor in tensors)
    missing = [width - tensor.shape[1] for tensor in tensors]
    return [
        torch.nn.functional.pad(tensor, (more, 0) if left else (0, more), value=padding)
        for tensor, more in zip(tensors, missing, strict=True)
    ]


def _of_how_many(value: Any, rows: int, size: int) -> Iterator[str]:
    """What was left out; what is read as it comes may have any number of rows."""
    source: Any = value.dataset if isinstance(value, DataLoader) else value
    try:
        total = len(source)
    except (TypeError, NotImplementedError, AttributeError):
        total = None
    if total is not None and rows < total:
        why = f"{in_words(MOST_BYTES)} of them" if size >= MOST_BYTES else f"{MOST_INPUTS:,}"
        yield f"--data: the first {rows:,} of {total:,} inputs were read, at most {why}"
    elif total is None and (rows >= MOST_INPUTS or size >= MOST_BYTES):
        yield f"--data: the first {rows:,} inputs were read, not more"


def _class_names(value: Any) -> tuple[str, ...]:
    """Names of the classes, of a dataset of the library `datasets` that brings them."""
    features = getattr(value, "features", None)
    for name in LABELS:
        names = getattr(features.get(name), "names", None) if isinstance(features, Mapping) else None
        if names:
            return tuple(map(str, names))
    return ()
