"""Traced predictions as a page shows them: a map of all contributions, the best clients of each input, its picture."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.picture import open_picture
from ...evaluation.contributions import Trace
from ...imports import later
from ...results.answer import OF_MODEL
from ...results.run import Key, RunContents

if TYPE_CHECKING:
    import pandas as pd
    import scipy
    from PIL import Image
else:
    pd = later("pandas")
    scipy = later("scipy")
    Image = later("PIL.Image")

TOP = 6  # clients named on a card
SMALL_PICTURE = 4096  # bytes: what is larger is made smaller
THUMBNAIL = 96  # pixels
TEXT_SHOWN = 600  # characters
LAYERS_SHOWN = 200  # of a profile


def shown_traces(opened: RunContents, cells: int) -> tuple[list[dict[str, Any]], list[str]]:
    """The traces that have room, and what was left out.

    All of the last round traced come first; where these have more than `cells` numbers together, of each the same
    inputs are taken, evenly over the labels. Earlier rounds follow while they fit whole.

    Args:
        opened: the run.
        cells: the most numbers (inputs x clients) in all.
    """
    last = [pair for pair in opened.traces if pair[0][3] == opened.last_round]
    if not last:
        return [], []
    widest = max(len(trace.clients) for _, trace in last)
    room = max(cells // (widest * len(last)), 1)
    rest = _other_rows(opened)
    told, result = [], []
    for key, trace in last:
        result.append(_shown(key, trace, _sample(trace, room), rest))
        cells -= len(result[-1]["inputs"]) * len(trace.clients)
    most = max(len(trace.inputs) for _, trace in last)
    if most > room:
        told.append(
            f"{room:,} of the {most:,} traced inputs are in this page, evenly over the labels, to keep it small; "
            "contributions.parquet has all"
        )
    left_out = set()
    for key, trace in opened.traces:
        size = len(trace.inputs) * len(trace.clients)
        if key[3] == opened.last_round:
            continue
        if size <= cells:
            cells -= size
            result.append(_shown(key, trace, np.arange(len(trace.inputs)), rest))
        else:
            left_out.add(key[3])
    if left_out:
        told.append(f"inputs of round{'s' * (len(left_out) > 1)} {', '.join(map(str, sorted(left_out)))} are not in it")
    return result, told


def _sample(trace: Trace, room: int) -> np.ndarray:
    """Positions of at most `room` inputs, evenly over the labels, in the order of their numbers."""
    if len(trace.inputs) <= room:
        return np.arange(len(trace.inputs))
    by_label = np.argsort(trace.labels, kind="stable")
    return np.sort(by_label[np.linspace(0, len(by_label) - 1, room).round().astype(int)])


def _shown(key: Key, trace: Trace, chosen: np.ndarray, rest: pd.DataFrame | None) -> dict[str, Any]:
    method, scope, target, number = key
    values, rank = trace.contributions[chosen], trace.rank[chosen]
    share = scipy.special.softmax(values, axis=1)
    order = np.lexsort((np.broadcast_to(trace.clients, values.shape), -values, rank), axis=1)[:, :TOP]
    largest = np.abs(values).max(axis=1, keepdims=True)
    scaled = np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
    top = [np.take_along_axis(array, order, axis=1) for array in (values, share, rank)]
    shown = {
        "method": method,
        "scope": scope,
        "target": target,
        "round": number,
        "clients": trace.clients.tolist(),
        "inputs": trace.inputs[chosen].tolist(),
        "label": trace.labels[chosen].tolist(),
        "prediction": trace.predictions[chosen].tolist(),
        "map": base64.b64encode(np.rint(scaled * 127).astype(np.int8).tobytes()).decode(),
        "top": order.tolist(),
        "value": [[_digits(value) for value in row] for row in top[0].tolist()],
        "share": np.round(top[1], 4).tolist(),
        "rank": top[2].tolist(),
        "tied": (rank == 1).sum(axis=1).tolist(),
    }
    if rest is not None and key in rest.index:
        of_trace = rest.loc[[key]]
        numbers = trace.inputs[chosen]
        shown["rest"] = {
            str(kind): [_digits(value) for value in rows.set_index("input")["contribution"].reindex(numbers).tolist()]
            for kind, rows in of_trace.groupby("kind", sort=False)
        }
    return shown


def _other_rows(opened: RunContents) -> pd.DataFrame | None:
    """Contributions that are no client's (previous model, momentum, noise …), indexed by trace."""
    if opened.contributions is None:
        return None
    rows = opened.contributions[opened.contributions["kind"] != "client"]
    return rows.set_index(["method", "scope", "target", "round"]).sort_index() if len(rows) else None


def _digits(number: float) -> float | None:
    """Four significant digits."""
    return float(f"{number:.4g}") if math.isfinite(number) else None


def shown_inputs(opened: RunContents, numbers: Sequence[int], room: int) -> tuple[dict[str, Any], list[str]]:
    """What the inputs are, by number, and what was left out.

    Args:
        opened: the run.
        numbers: the inputs that are needed.
        room: bytes for pictures or texts.

    Returns:
        `number`, `picture` (data URI) or `text`, and `probability` of the predicted class in the last round, or the
        `value` of a model without classes.
    """
    if opened.inputs is None:
        return {}, []
    rows = opened.inputs.sort_values("round", kind="stable").drop_duplicates("input", keep="last").set_index("input")
    rows = rows.reindex(list(numbers))
    shown: dict[str, Any] = {"number": list(numbers)}
    if "probabilities" in rows:
        pairs = zip(rows["probabilities"], rows["prediction"], strict=True)
        shown["probability"] = [_probability(probabilities, predicted) for probabilities, predicted in pairs]
    elif "value" in rows:
        shown["value"] = [_digits(value) for value in rows["value"].tolist()]
    shown |= _highlights(rows)
    told = []
    makers: tuple[tuple[str, type, Callable[[Any], str]], ...] = (
        ("picture", bytes, _data_uri),
        ("text", str, _excerpt),
    )
    for name, kind, make in makers:
        if name not in rows:
            continue
        made, missing, unread = list[str | None](), 0, 0
        for content in rows[name]:
            try:
                text = make(content) if isinstance(content, kind) else None
            except Exception:  # of a picture that is none, or damaged
                text, unread = None, unread + 1
            room -= len(text.encode()) if text is not None else 0
            missing += room < 0
            made.append(text if room >= 0 else None)
        shown[name] = made
        if missing:
            told.append(f"{missing:,} {name}s are not in this page, to keep it small; inputs.parquet has all")
        if unread:
            told.append(f"{unread:,} {name}s of inputs.parquet cannot be read, and are not in this page")
        if name == "text" and rows[name].str.len().max() > TEXT_SHOWN:
            told.append(f"texts are cut after {TEXT_SHOWN} characters; inputs.parquet has them whole")
    return shown, told


def _highlights(rows: pd.DataFrame) -> dict[str, Any]:
    """Of inputs with a highlight: the client that it is of, and a picture in colour or the parts of the text."""
    if "carried_client" not in rows:
        return {}
    whose = [None if pd.isna(client) else int(client) for client in rows["carried_client"]]
    shown: dict[str, Any] = {"carried_client": whose}
    if "carried" in rows:
        shown["carried"] = [_coloured(png) if isinstance(png, bytes) else None for png in rows["carried"]]
    if "spans" in rows:
        shown["spans"] = [_spans(text) if isinstance(text, str) else None for text in rows["spans"]]
    return shown


def _coloured(png: bytes) -> str | None:
    """A grey picture of parts as blue (above 128) and orange (below), on nothing; None where it is no picture."""
    try:
        with open_picture(png) as picture:
            grey = picture.convert("L")
        grey.thumbnail((THUMBNAIL, THUMBNAIL))
    except Exception:  # whatever a damaged picture makes its reader say
        return None
    part = (np.asarray(grey, dtype=np.float64) - 128) / 127
    colour = np.where(part[..., None] > 0, (86, 180, 233), (230, 120, 30))
    alpha = np.rint(255 * np.sqrt(np.abs(part).clip(0, 1)))[..., None]  # small ones can be seen, too
    out = io.BytesIO()
    Image.fromarray(np.concatenate([colour, alpha], axis=2).astype(np.uint8), "RGBA").save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _spans(text: str) -> list[list[float]] | None:
    """`[[start, end, part], …]` as it was written, of what is shown of the text; None where it is something else."""
    try:
        spans = json.loads(text)
        kept = [[int(start), int(end), float(part)] for start, end, part in spans if int(end) <= TEXT_SHOWN]
    except (ValueError, TypeError):
        return None
    return kept if all(0 <= start < end and abs(part) <= 1 for start, end, part in kept) else None


def _probability(probabilities: Any, predicted: Any) -> float | None:
    if probabilities is None or isinstance(probabilities, float) or not 0 <= int(predicted) < len(probabilities):
        return None
    return round(float(probabilities[int(predicted)]), 4)


def _excerpt(text: str) -> str:
    return text if len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]}…"


def _data_uri(png: bytes) -> str:
    kind = "png"
    if len(png) > SMALL_PICTURE:
        with open_picture(png) as picture:
            small = picture.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        out = io.BytesIO()
        small.save(out, "JPEG", quality=80)
        if out.tell() < len(png):
            png, kind = out.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(png).decode()}"


def layer_profiles(opened: RunContents) -> dict[str, Any] | None:
    """For the inputs whose layers were recorded in the last round: what each layer gave their top client.

    Returns:
        `layers` (names in the model's order), and `inputs`: by input number the top `client`, its `value` by layer and
        the shares of `active` neurons; None where nothing was recorded.
    """
    rows = opened.layers
    if rows is None or not len(rows):
        return None
    rows = rows[rows["round"] == rows["round"].max()]
    names = list(dict.fromkeys(rows["layer"]))[:LAYERS_SHOWN]
    inputs = {}
    for number, of_input in rows.groupby("input", sort=True):
        whole = of_input.groupby("client")["contribution"].sum()
        client = int(whole.idxmax())
        best = of_input[of_input["client"] == client].drop_duplicates("layer").set_index("layer").reindex(names)
        active = best["active_neurons"] / best["neurons"].where(best["neurons"] > 0)
        inputs[int(str(number))] = {
            "client": client,
            "value": [_digits(value) for value in best["contribution"].tolist()],
            "active": [_digits(value) for value in active.tolist()],
        }
    return {"layers": [name or OF_MODEL for name in names], "inputs": inputs}
