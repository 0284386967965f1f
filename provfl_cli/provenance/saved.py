"""The result of a trace as a file: arrays in safetensors, all else as JSON in its header; nothing in it is code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..bounded import check_safetensors
from ..errors import InputError

Parts = Mapping[str, Any]
"""The attributes of a `Contributions` by name; of each layer its name and `LAYER_ARRAYS`, a tuple."""

FORMAT = 1
KEY = "provfl.contributions"  # of the JSON in the header
ARRAYS = {  # of the result, with the names of their dimensions
    "candidates": ("bool", "clients"),
    "values": ("float64", "inputs", "clients"),
    "predictions": ("int64", "inputs"),
    "probabilities": ("float32", "inputs", "classes"),
    "residuals": ("float64", "inputs"),
}
LAYER_ARRAYS = ("contributions", "active", "neurons")
TEXTS = ("masked_layers", "unchecked", "buffers", "names", "notes", "not_shared")
SINCE = ("not_shared",)  # texts that files of an earlier version do not have


def save_parts(parts: Parts, path: str | PathLike[str]) -> None:
    """Write `path`; InputError where it cannot be written."""
    from safetensors.numpy import save

    arrays = {name: parts[name] for name in ARRAYS}
    arrays |= {f"rows/{at}": part for at, part in enumerate(parts["rows"].values())}
    for at, (_, *of_layer) in enumerate(parts["layers"]):
        arrays |= {f"layers/{at}/{name}": array for name, array in zip(LAYER_ARRAYS, of_layer, strict=True)}
    text = {
        "format": FORMAT,
        "clients": list(parts["clients"]),
        "rows": list(parts["rows"]),
        "layers": [name for name, *_ in parts["layers"]],
        "covered": parts["covered"],
        "uncovered": parts["uncovered"],
        **{name: list(parts[name]) for name in TEXTS},
    }
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {KEY: json.dumps(text)})
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def load_parts(path: str | PathLike[str]) -> Parts:
    """Read what `save_parts` wrote; InputError where it is no such file, or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        check_safetensors(Path(path))
        with safe_open(path, framework="np") as file:
            text = _text(file.metadata())
            names = file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
        return _parts(text, arrays)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give one that Contributions.save wrote") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(f"{path}: is no saved result of a trace, or damaged ({reason})") from error


def _text(metadata: dict[str, str] | None) -> dict[str, Any]:
    text = json.loads((metadata or {})[KEY])
    if text["format"] != FORMAT:
        raise ValueError(f"format {text['format']} instead of {FORMAT}")
    return dict(text)


def _parts(text: dict[str, Any], arrays: dict[str, np.ndarray]) -> Parts:
    clients = tuple(map(int, text["clients"]))
    sizes = {"clients": len(clients), "inputs": len(arrays["values"]), "classes": arrays["probabilities"].shape[-1]}
    for name, (dtype, *dimensions) in ARRAYS.items():
        _check(name, arrays[name], dtype, tuple(sizes[dimension] for dimension in dimensions))
    rows = {str(kind): arrays[f"rows/{at}"] for at, kind in enumerate(text["rows"])}
    for kind, part in rows.items():
        _check(kind, part, "float64", (sizes["inputs"],))
    texts = {name: tuple(map(str, text.get(name, ()) if name in SINCE else text[name])) for name in TEXTS}
    if texts["names"] and len(texts["names"]) != len(clients):
        raise ValueError("it does not name each client")
    layers = []
    for at, name in enumerate(text["layers"]):
        contributions, active, neurons = (arrays[f"layers/{at}/{part}"] for part in LAYER_ARRAYS)
        _check(name, contributions, "float64", (len(contributions), len(clients)))
        if not active.shape == neurons.shape == contributions.shape[:1]:
            raise ValueError(f"{name} has neurons of other inputs")
        layers.append((str(name), contributions, active, neurons))
    return {
        "clients": clients,
        "rows": rows,
        "layers": layers,
        "covered": float(text["covered"]),
        "uncovered": {str(name): str(why) for name, why in text["uncovered"].items()},
        **{name: arrays[name] for name in ARRAYS},
        **texts,
    }


def _check(name: str, array: np.ndarray, dtype: str, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)} instead of {dtype} {list(shape)}")
