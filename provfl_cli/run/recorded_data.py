"""The inputs of a recorded federation, as `--data` names them: tensors by argument name, labels, and texts."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..bounded import check_safetensors
from ..bounded_tables import GIVEN, check_dataset
from ..coverage import printable
from ..data.labels import Classes
from ..errors import InputError, brief
from ..provenance.checks import check_finite_inputs
from ..provenance.outputs import Inputs, count_of
from .called import called
from .items import IDS, LABELS, MASK, MOST_INPUTS, POSITIONAL, Column, Columns, columns_of, is_items, read_items, splits
from .tokens import Tokens

TEXT = "text"
ACCEPTED = (
    "a tensor, a pair (inputs, labels), a mapping of tensors by argument name (and labels), a DataLoader, or a Dataset"
)


@dataclass(frozen=True)
class RecordedData:
    """What `--data` holds.

    Attributes:
        inputs: `[n, …]`, or by argument name.
        labels: as they were given, `[n, …]` of any type; None: there are none.
        texts: of the inputs, None where they are not known.
        notes: sentences for the user, on how it was read.
        label_names: of the classes, where the data bring them.
    """

    inputs: Inputs
    labels: Tensor | None
    texts: tuple[str | None, ...] | None = None
    notes: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()


def read_data(spec: str, model: nn.Module | None, tokens: Tokens | None, label_names: Sequence[str]) -> RecordedData:
    """Read what `--data` names.

    Args:
        spec: a safetensors file, a parquet table of texts, or MODULE:NAME.
        model: that reads it; None: it is built to the data.
        tokens: what makes tokens of texts; None: nothing was given.
        label_names: of the classes, to look labels up that are texts.

    Raises:
        InputError: there is no such thing, or it is nothing that a model reads.
    """
    what, path = f"--data {spec}", Path(spec)
    if path.suffix == ".parquet":
        read = _table(path, what)
    elif path.suffix == ".safetensors" or path.is_file():
        read = Columns(dict(_tensors(path, what)))
    elif ":" in spec:
        read = _of_value(called(spec, "--data"), what, _padding(model))
    else:
        raise InputError(f"{what}: no such file; give FILE.safetensors, FILE.parquet or MODULE:FUNCTION")
    return _as_read(read, what, model, tokens, label_names)


def _tensors(path: Path, what: str) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{what}: no such file")
    try:
        check_safetensors(path)
        return load_file(path)
    except Exception as error:  # of the library, one of several
        raise InputError(f"{what}: is no safetensors file ({error})") from error


def _table(path: Path, what: str) -> Columns:
    """The columns `text` and, where there is one, `label` of a parquet table."""
    if not path.is_file():
        raise InputError(f"{what}: no such file")
    try:
        check_dataset(path, GIVEN)
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            label = next((name for name in LABELS if name in names), None)
            if TEXT not in names:
                said = ", ".join(map(printable, names[:12]))
                raise InputError(f"{what}: has no column {TEXT}, its columns are {said}")
            total = file.metadata.num_rows
            batch = next(file.iter_batches(MOST_INPUTS, columns=[TEXT, *([label] if label else [])]), None)
    except InputError:
        raise
    except Exception as error:  # of the library, or a table larger than any
        raise InputError(f"{what}: cannot be read ({brief(error)})") from error
    if batch is None or not batch.num_rows:
        raise InputError(f"{what}: there is nothing in it")
    rows = batch.to_pydict()
    if not all(isinstance(text, str) for text in rows[TEXT]):
        raise InputError(f"{what}: its column {TEXT} does not hold a text in each row")
    columns: dict[str, Column] = {TEXT: rows[TEXT]}
    if label:
        columns |= columns_of({LABELS[0]: [-1 if value is None else value for value in rows[label]]}, what)
    left = f"--data: the first {MOST_INPUTS:,} of {total:,} inputs were read, at most {MOST_INPUTS:,}"
    return Columns(columns, (left,) if total > batch.num_rows else ())


def _of_value(value: Any, what: str, padding: int) -> Columns:
    """Columns of what a function returned."""
    if names := splits(value):
        raise InputError(f"{what}: returns the splits {', '.join(map(printable, names))}: return one of them")
    if is_items(value):
        return read_items(value, what, padding)
    if isinstance(value, Mapping):
        inner = value.get("inputs")
        if isinstance(inner, Mapping):
            rest = {name: column for name, column in value.items() if name != "inputs"}
            return Columns(columns_of({**inner, **_without_none(rest)}, what))
        return Columns(columns_of(_without_none(value), what))
    inputs, labels = value if isinstance(value, tuple | list) and len(value) == 2 else (value, None)
    if isinstance(inputs, Mapping):
        columns = columns_of(_without_none(inputs), what)
    elif isinstance(inputs, Tensor):
        columns = columns_of({POSITIONAL: inputs}, what)
    else:
        raise InputError(f"{what}: holds no tensor `inputs` [n, …]; a function may return {ACCEPTED}")
    return Columns({**columns, **(columns_of({LABELS[0]: labels}, what) if labels is not None else {})})


def _without_none(values: Mapping[Any, Any]) -> dict[Any, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _as_read(
    read: Columns, what: str, model: nn.Module | None, tokens: Tokens | None, label_names: Sequence[str]
) -> RecordedData:
    """Columns as a model's arguments, labels and texts."""
    columns = dict(read.columns)
    labels = next((columns.pop(name) for name in LABELS if name in columns), None)
    texts = columns.get(TEXT)
    texts = texts if isinstance(texts, list) else None
    tensors = {name: column for name, column in columns.items() if isinstance(column, Tensor)}
    if texts is not None and IDS not in tensors and POSITIONAL not in tensors:
        if tokens is None:
            raise InputError(f"{what}: holds texts: --tokenizer FOLDER_OR_FILE says how the model reads them")
        tensors |= tokens.encode(texts)
    elif tokens is not None and IDS not in tensors:
        raise InputError(f"--tokenizer: {what} holds neither texts nor {IDS}: leave it out")
    inputs, dropped = arguments(model, tensors, what)
    named = {"inputs": inputs} if isinstance(inputs, Tensor) else inputs
    sizes = {name: len(tensor) if tensor.dim() else 0 for name, tensor in named.items()}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{printable(name)} {size}" for name, size in sizes.items())
        raise InputError(f"{what}: of different numbers of inputs ({said}), give as many in each")
    if not all(sizes.values()) or (isinstance(inputs, Tensor) and inputs.dim() < 2):
        raise InputError(f"{what}: holds no tensor `inputs` [n, …]")
    for name, tensor in named.items():
        check_finite_inputs(tensor, f"{what}: {printable(name)}")
    shown: tuple[str | None, ...] | None = None
    if texts is not None and len(texts) == count_of(inputs):
        shown = tuple(texts)
    if shown is None and tokens is not None and IDS in tensors:
        masks = tensors.get(MASK)
        shown = tuple(
            tokens.decode(ids, None if masks is None else masks[number]) for number, ids in enumerate(tensors[IDS])
        )
    return RecordedData(
        inputs,
        None if labels is None else _labels(labels, count_of(inputs), what, label_names or read.label_names),
        shown,
        (*read.notes, *_left_out([*dropped, *(name for name in columns if name not in tensors and name != TEXT)])),
        read.label_names,
    )


def arguments(model: nn.Module | None, tensors: Mapping[str, Tensor], what: str) -> tuple[Inputs, tuple[str, ...]]:
    """What of these tensors the model takes, by argument name or as the only one; and the names of the others.

    Raises:
        InputError: it is none, or not to be told which.
    """
    if POSITIONAL in tensors or set(tensors) == {"inputs"}:
        return tensors[POSITIONAL if POSITIONAL in tensors else "inputs"], ()
    names = None if model is None else _argument_names(model)
    taken = {name: tensor for name, tensor in tensors.items() if names is None or name in names}
    if model is not None and taken:
        return taken, tuple(name for name in tensors if name not in taken)
    only = next((name for name in ("inputs", IDS) if name in tensors), None)
    if only is None and len(tensors) == 1:
        (only,) = tensors
    if only is not None:  # its argument has another name
        return tensors[only], tuple(name for name in tensors if name != only)
    said = ", ".join(map(printable, list(tensors)[:8])) or "none"
    takes = "" if not names else f"; the model takes {', '.join(map(printable, sorted(names)))}"
    raise InputError(f"{what}: holds no tensor `inputs` [n, …] (its tensors: {said}){takes}: give {ACCEPTED}")


def _argument_names(model: nn.Module) -> frozenset[str] | None:
    """Names that a model's `forward` takes; None: it passes on whatever it gets, as wrappers do."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return None
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return frozenset(names) if names else None


def _padding(model: nn.Module | None) -> int:
    token = getattr(getattr(model, "config", None), "pad_token_id", None)
    return token if isinstance(token, int) else 0


def _labels(labels: Column, count: int, what: str, names: Sequence[str]) -> Tensor:
    """Labels as a tensor `[n, …]`; texts are names of classes."""
    whole = f"{what}: `labels` must be whole numbers, one for each of {count} inputs"
    if isinstance(labels, list):
        if not names:
            raise InputError(f"{whole}, not texts: the names of the classes are not recorded")
        classes = Classes(tuple(names))
        numbers = [classes.number(label) for label in labels]
        for label, number in zip(labels, numbers, strict=True):
            if number is None:
                raise InputError(f"{what}: label {printable(label)}: {classes.accepted(label)}")
        labels = torch.tensor(numbers)
    if not labels.dim() or len(labels) != count or labels.is_complex():
        raise InputError(f"{whole}; or numbers [{count}, …] that the model should put out")
    return labels.to(torch.int64) if not labels.is_floating_point() else labels


def _left_out(names: Sequence[str]) -> Iterator[str]:
    if names:
        said = ", ".join(printable(name) for name in names[:8]) + (", …" if len(names) > 8 else "")
        yield f"--data: {said} {'is no argument' if len(names) == 1 else 'are no arguments'} of the model: left out"
