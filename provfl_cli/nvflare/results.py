"""What NVFlare's shareables carry, as tensors and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.shareable import Shareable
from torch import Tensor

from ..errors import InputError
from ..fusion.state_dicts import require_state_dict
from ..recording.rounds import NotRecorded


@dataclass(frozen=True)
class ClientResult:
    """What a client returned.

    Attributes:
        arrays: its whole model, whatever it sent.
        types: in which types it sent it.
        steps: what it says under NUM_STEPS_CURRENT_ROUND; None where it says nothing.
    """

    arrays: dict[str, Tensor]
    types: dict[str, torch.dtype]
    steps: Any


def as_tensors(arrays: Any, whose: str) -> dict[str, Tensor]:
    """Arrays of NumPy or PyTorch as tensors of their own, by name, which nobody changes any more.

    Raises:
        NotRecorded: they are no such arrays; `whose` says whose.
    """
    if not isinstance(arrays, Mapping) or not arrays:
        raise NotRecorded(f"{whose} holds no arrays")
    converted = {}
    for name, value in arrays.items():
        load = getattr(value, "materialize", None)  # of arrays that NVFlare left on disk
        value = load() if callable(load) else value
        if isinstance(value, np.ndarray | np.generic | int | float):
            try:
                value = torch.from_numpy(np.array(value))
            except (TypeError, ValueError):
                raise NotRecorded(f"{whose}: {name} is of the type {np.asarray(value).dtype}: not numbers") from None
        elif isinstance(value, Tensor):
            value = value.detach().clone()
        else:
            raise NotRecorded(f"{whose}: {name} is of the type {type(value).__name__}: not numbers")
        converted[name] = value
    try:
        return require_state_dict(converted, whose)
    except InputError as error:
        raise NotRecorded(str(error)) from None


def content_of(shareable: Any, whose: str) -> DXO:
    """The data exchange object in a shareable.

    Raises:
        NotRecorded: there is none.
    """
    try:
        return from_shareable(shareable if isinstance(shareable, Shareable) else Shareable())
    except ValueError:
        raise NotRecorded(f"{whose}: there is no model in it") from None


def is_model(content: DXO) -> bool:
    """Whether it is a model, or an update of one; metrics alone come of tasks that only evaluate."""
    return bool(content.data_kind != DataKind.METRICS)


def client_result(content: DXO, base: Mapping[str, Tensor], whose: str) -> ClientResult:
    """What a client returned: of kind WEIGHTS its model, of kind WEIGHT_DIFF what is added to `base`.

    An array that is not in a difference is as it was.

    Raises:
        NotRecorded: it is of another kind, or does not fit the model.
    """
    if content.data_kind not in (DataKind.WEIGHTS, DataKind.WEIGHT_DIFF):
        kind = getattr(content.data_kind, "value", content.data_kind)
        raise NotRecorded(f"{whose} returned a result of kind {kind}: WEIGHTS and WEIGHT_DIFF are recorded")
    sent = as_tensors(content.data, whose)
    types = {name: tensor.dtype for name, tensor in sent.items()}
    if content.data_kind == DataKind.WEIGHT_DIFF:
        for name, tensor in sent.items():
            if name not in base or base[name].shape != tensor.shape:
                raise NotRecorded(f"{whose} returned a difference of {name}, which does not fit the global model's")
        sent = {name: _added(before, sent[name]) if name in sent else before for name, before in base.items()}
    return ClientResult(sent, types, content.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND))


def _added(before: Tensor, difference: Tensor) -> Tensor:
    """Their sum, of whole numbers where one of them is: averages of these come as fractions. Half precision would
    swallow a difference, so it is stored in single precision."""
    total = before.double() + difference.double()
    whole = difference if not difference.is_floating_point() else before
    if not whole.is_floating_point():
        return total.round().to(whole.dtype)
    return total.to(torch.promote_types(torch.promote_types(before.dtype, difference.dtype), torch.float32))
