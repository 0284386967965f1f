"""What can be measured of any global tensors of a federation: by its data of a run, by inputs of a recording."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..data.federated import FederatedData
from ..evaluation.repair import Quality, flip_success, membership, relative
from ..federation.loss import evaluate, is_packed
from ..federation.site import CHUNK
from ..processes import one_thread
from ..provenance.outputs import Inputs
from ..provenance.shared_part import load_part
from .backdoor import measured_success
from .inputs import UNKNOWN
from .open_run import OpenFederation
from .tracing import model_outputs

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Examined:
    """A model and what it predicts: int64 `[n]` of the test inputs, empty where it tells no classes apart."""

    weights: Weights
    quality: Quality
    predictions: np.ndarray


@dataclass(frozen=True)
class Measures:
    """What a model is asked.

    Attributes:
        model: the architecture, which takes any weights.
        device: where to compute.
        inputs, labels: of the server's test set; int64 `[n]`, `UNKNOWN` where nobody gave one. None: of responses.
        data: of the run; None: there are none.
        members: inputs and labels that the clients who go have trained on; None: they are not at hand.
    """

    model: nn.Module
    device: torch.device
    inputs: Inputs | None
    labels: np.ndarray
    data: FederatedData | None = None
    members: tuple[Tensor, Tensor] | None = None

    def examined(self, weights: Weights) -> Examined:
        """Ask a model with these global tensors."""
        load_part(self.model, weights)
        model = self.model.to(self.device).eval()
        with one_thread():
            success = None if self.data is None else measured_success(model, self.data, self.device)
            quality = (
                Quality() if success is None else Quality(success=success.triggered, untriggered=success.untriggered)
            )
            if self.inputs is None:
                assert self.data is not None
                return Examined(weights, replace(quality, accuracy=_exact(model, self.data)), np.empty(0, np.int64))
            logits = model_outputs(model, self.inputs, self.device, classes=True)
            predictions = logits.argmax(1).numpy()
            known = self.labels != UNKNOWN
            if known.any():
                quality = replace(quality, accuracy=float((predictions == self.labels)[known].mean()))
            if success is None and self.data is not None:
                quality = replace(quality, success=flip_success(self.labels, predictions, self.data.faults))
            if self.members is not None:
                inputs, labels = self.members
                theirs = _losses(model_outputs(model, inputs, self.device, classes=True), labels)
                unseen = _losses(logits, torch.from_numpy(self.labels))
                quality = replace(quality, membership=membership(theirs, unseen))
        return Examined(weights, quality, predictions)


def of_run(opened: OpenFederation, data: FederatedData, gone: Collection[int]) -> Measures:
    """What a run's own data can measure."""
    test = data.evaluated
    if is_packed(test.inputs):
        return Measures(opened.model, opened.device, None, np.empty(0, np.int64), data)
    theirs = [client for client in data.clients if client.id in gone and len(client.labels)]
    members = (torch.cat([client.inputs for client in theirs]), torch.cat([client.labels for client in theirs]))
    return Measures(opened.model, opened.device, test.inputs, test.labels.numpy(), data, members)


def of_recording(opened: OpenFederation) -> Measures | None:
    """What the inputs that come with a recording can measure; None where the model tells no classes apart."""
    if opened.meaning.target is not None:
        return None
    inputs = opened.inputs.many(Path("all"))
    return Measures(opened.model, opened.device, inputs.inputs, inputs.labels)


def compared(examined: Examined, retrained: Examined | None, whole: Weights, buffers: Collection[str]) -> Quality:
    """The quality of a model with its distance from the retrained one, and from the tensors `whole` of before."""
    changed = _distance(examined.weights, whole, buffers)
    if retrained is None:
        return replace(examined.quality, changed=changed)
    same = examined.predictions == retrained.predictions
    return replace(
        examined.quality,
        changed=changed,
        distance=_distance(examined.weights, retrained.weights, buffers),
        agreement=float(same.mean()) if len(same) else math.nan,
    )


def _distance(weights: Weights, other: Weights, buffers: Collection[str]) -> float:
    return relative(
        [(weights[name].double().numpy(), other[name].double().numpy()) for name in other if name not in buffers]
    )


def _losses(logits: Tensor, labels: Tensor) -> np.ndarray:
    losses: np.ndarray = functional.cross_entropy(logits.double(), labels, reduction="none").numpy()
    return losses


def _exact(model: nn.Module, data: FederatedData) -> float:
    """Of responses the share that the model says itself, as rounds are evaluated."""
    test, correct = data.evaluated, 0
    for first in range(0, len(test.labels), CHUNK):
        part = slice(first, first + CHUNK)
        correct += evaluate(model, test.inputs[part].clone(), test.labels[part])[1]
    return correct / len(test.labels)
