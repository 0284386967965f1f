"""Which pixels or tokens carried the top client of some inputs: columns of `inputs.parquet`, for the page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..attribution.method import Case, shared_parameters
from ..attribution.provenance import for_case
from ..data.federated import FederatedData, Pictures, Texts
from ..data.tokenizer import spans_of
from ..fusion.updates import ReturnedModels, unclipped
from ..pixels import png
from ..provenance.carried import carried
from ..provenance.merged import summed_pairs
from ..provenance.shared_part import model_names
from .tracing import TracedRound

INPUTS = 48  # two pages of cards; wrong predictions first
TOGETHER = 16  # inputs differentiated at the same time
MOST_NUMBERS = 50_000_000  # parameters x top clients
NOTHING = 128  # of a picture's pixels: above it pushes, below it pushes against


def highlighted(traced: TracedRound, case: Case, data: FederatedData) -> pd.DataFrame:
    """The inputs of a traced round with the columns `carried_client` and `carried` (pictures) or `spans` (texts).

    They are null for inputs without: of more than `INPUTS`, of clients that there is no room for, and where the model
    cannot be differentiated twice. Of no input, the columns are left out.

    Args:
        traced: the round; its `trace` ranks the clients.
        case: what was traced, the model with the weights of the round.
        data: whose test set the inputs are from.
    """
    rows = traced.inputs
    trace, inputs = traced.trace, case.inputs
    if trace is None or not isinstance(inputs, Tensor) or not isinstance(data.form, Pictures | Texts):
        return rows
    if not len(rows) or not case.tells_classes or summed_pairs(case.stored):
        return rows
    values = np.where(trace.candidates, trace.values, -np.inf)
    top = np.asarray(values.argmax(1))
    order = np.argsort(case.labels == case.classes, kind="stable")[:INPUTS]
    try:
        moved = _moved(case, Counter(top[order].tolist()))
        found: dict[int, np.ndarray] = {}
        for client, part in moved.items():
            of_client = [at for at in order.tolist() if top[at] == client]
            for start in range(0, len(of_client), TOGETHER):
                some = of_client[start : start + TOGETHER]
                found |= zip(some, _carried(case, inputs, part, some), strict=True)
    except (RuntimeError, NotImplementedError):  # of what has no second derivative
        return rows
    if not found:
        return rows
    clients = {at: trace.clients[int(top[at])] for at in found}
    numbers = [clients.get(at) for at in range(len(rows))]
    columns: dict[str, Any] = {"carried_client": pd.array(numbers, dtype="Int32")}
    if isinstance(data.form, Texts):
        spans = _spans(data, rows["text"].tolist(), inputs, found)
        columns["spans"] = pd.Series([spans.get(at) for at in range(len(rows))], dtype="str", index=rows.index)
    else:
        pictures = {at: _picture(part) for at, part in found.items()}
        columns["carried"] = pd.Series([pictures.get(at) for at in range(len(rows))], dtype="object", index=rows.index)
    return rows.assign(**columns)


def _moved(case: Case, tops: Mapping[int, int]) -> dict[int, dict[str, Tensor]]:
    """What the clients at these columns moved, `W_k - V_k` by parameter of the model; those on top most often first."""
    stored = case.stored.as_sent()
    names = model_names(case.stored.weights(), case.model.state_dict(), "model", "the models of the round")
    own = dict(case.model.named_parameters())
    parameters = [name for name in shared_parameters(case) if names[name] in own]
    whole = sum(own[names[name]].numel() for name in parameters)
    kept = [client for client, _ in Counter(tops).most_common(MOST_NUMBERS // max(whole, 1))]
    if not kept:
        return {}
    updates = unclipped(
        ReturnedModels(stored.previous(), stored.client_stack(), stored.examples, (), stored.buffers, stored.bases())
    )
    moved: dict[int, dict[str, Tensor]] = {client: {} for client in kept}
    for name in parameters:
        blocks = [updates.own(name, where)[kept] for where in updates.blocks(name)]
        like = own[names[name]]
        for client, part in zip(kept, torch.cat(blocks, dim=1), strict=True):
            moved[client][names[name]] = part.reshape(like.shape).to(like)
    return moved


def _carried(case: Case, inputs: Tensor, moved: Mapping[str, Tensor], some: list[int]) -> list[np.ndarray]:
    """Of these inputs, float64 `[T]` or, summed over channels, `[height, width]`."""
    model: nn.Module = case.model
    device = next(model.parameters()).device
    wanted = torch.from_numpy(case.classes[some]).to(device)
    kind = for_case(case, case.provenance).target
    part = carried(model, inputs[some].to(device), moved, wanted, kind).cpu().double()
    return list((part.sum(1) if part.dim() == 4 else part).numpy())


def _parts(values: np.ndarray) -> np.ndarray:
    """Values as parts of the largest, -1 to 1."""
    largest = float(np.abs(values).max(initial=0.0))
    return values / largest if largest > 0 and np.isfinite(largest) else np.zeros_like(values)


def _picture(values: np.ndarray) -> bytes:
    return png(np.rint(NOTHING + 127 * _parts(values)).astype(np.uint8)[..., None])


def _spans(data: FederatedData, texts: list[str], inputs: Tensor, found: Mapping[int, np.ndarray]) -> dict[int, str]:
    """`[[start, end, part], …]` of each text's tokens, as JSON; texts whose tokens are others are left out."""
    assert data.tokenizer is not None
    told = {}
    for at, (tokens, spans) in zip(found, spans_of(data.tokenizer, [texts[at] for at in found]), strict=True):
        if inputs[at, : len(tokens)].tolist() != tokens:
            continue
        parts = _parts(found[at][: len(tokens)]).round(3).tolist()
        pairs = zip(spans, parts, strict=True)
        told[at] = json.dumps([[start, end, part] for (start, end), part in pairs if end > start])
    return told
