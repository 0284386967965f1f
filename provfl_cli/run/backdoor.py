"""Whether the backdoor that a run plants works in the global model of a round."""

from __future__ import annotations

import torch
from torch import nn

from ..data.federated import FederatedData
from ..evaluation.backdoor import AttackSuccess, attack_success
from .tracing import model_outputs


def measured_success(model: nn.Module, data: FederatedData, device: torch.device) -> AttackSuccess | None:
    """The success of the backdoor in `model`, which holds a round's weights; None where none is planted.

    Of all test inputs of another label than the trigger's, traced or not.
    """
    trigger, copies = data.faults.trigger, data.triggered
    if trigger is None or copies is None or not len(copies.labels):
        return None
    others = data.evaluated.labels != trigger.label
    triggered, plain = (
        model_outputs(model.to(device), inputs, device, classes=True).argmax(1).numpy()
        for inputs in (copies.inputs, data.evaluated.inputs[others])
    )
    return attack_success(triggered, plain, trigger.label)
