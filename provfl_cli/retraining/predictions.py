"""Predictions to make with every retrained model, and what it makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..provenance.outputs import Inputs, outputs_of
from ..provenance.targets import target_value


@dataclass(frozen=True)
class Asked:
    """Predictions of the whole federation's model after a round.

    Attributes:
        round: the round.
        inputs: `[n, …]`, as the model reads them.
        numbers: int64 `[n]`, their indices in the test set.
        classes: int64 `[n]`, the classes that are explained.
        by: asks a model, on a device, in another way than for classes; None: for these.
    """

    round: int
    inputs: Inputs
    numbers: np.ndarray
    classes: np.ndarray
    by: Callable[[nn.Module, torch.device], Answer] | None = None


@dataclass(frozen=True)
class Answer:
    """What one model makes of the inputs that were asked about.

    Attributes:
        logits: float64 `[n, classes]`.
        values: float64 `[n]`, the log-odds (margin) of the explained classes.
        classes: int64 `[n]`, the predicted classes.
        said: of a language model, what it says to each input; (): it was not asked.
    """

    logits: np.ndarray
    values: np.ndarray
    classes: np.ndarray
    said: tuple[str, ...] = ()


def answered(model: nn.Module, asked: Asked, device: torch.device) -> Answer:
    """Predict with the weights that a model on `device` holds."""
    if asked.by is not None:
        return asked.by(model.eval(), device)
    logits: Tensor = torch.cat([part.cpu() for part in outputs_of(model.eval(), asked.inputs, device, True)]).double()
    values = target_value("margin", logits, torch.from_numpy(asked.classes))
    return Answer(logits.numpy(), values.numpy(), logits.argmax(1).numpy())
