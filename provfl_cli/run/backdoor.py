"""Whether the backdoor that a run plants works in the global model of a round, or what it teaches is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ..config.trigger import Trigger
from ..data.federated import FederatedData, TestData
from ..evaluation.backdoor import AttackSuccess, attack_success
from ..models.causal import ResponseModel
from .answers import answers
from .tracing import model_outputs

MOST_PROMPTS = 256  # that are answered with what is taught, and so many without: a response is made token by token


def measured_success(model: nn.Module, data: FederatedData, device: torch.device) -> AttackSuccess | None:
    """The success of what is planted in `model`, which holds a round's weights; None where nothing shows it.

    Of a backdoor: of all test inputs of another label than the trigger's, traced or not. Of a topic that is taught: of
    the prompts that ask for it, and of the plain test prompts that do not, `MOST_PROMPTS` of each at most.
    """
    trigger, copies = data.faults.trigger, data.triggered
    if trigger is None or copies is None or not len(copies.labels):
        return None
    if isinstance(trigger, Trigger):
        others = data.evaluated.labels != trigger.label
        triggered, plain = (
            model_outputs(model.to(device), inputs, device, classes=True).argmax(1).numpy()
            for inputs in (copies.inputs, data.evaluated.inputs[others])
        )
        return attack_success(triggered, plain, trigger.label)
    assert isinstance(model, ResponseModel)  # behaviours are of responses
    unasked = np.flatnonzero(trigger.unasked(data.evaluated.labels.numpy()))
    asked = np.arange(len(copies.labels))
    triggered, plain = (
        answers(model, some_of(test, positions), data, "response", device).topics
        for test, positions in ((copies, asked), (data.evaluated, unasked))
    )
    return attack_success(triggered, plain, trigger.label)


def some_of(test: TestData, positions: np.ndarray) -> TestData:
    """Of the examples at some positions `MOST_PROMPTS` at most, evenly spaced."""
    if len(positions) > MOST_PROMPTS:
        positions = positions[np.linspace(0, len(positions) - 1, MOST_PROMPTS).round().astype(np.int64)]
    rows = torch.from_numpy(positions)
    return replace(
        test,
        inputs=test.inputs[rows],
        labels=test.labels[rows],
        shown=test.shown[positions],
        indices=test.indices[positions],
    )
