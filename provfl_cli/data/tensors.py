"""Pixels become the float32 tensors that models read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..imports import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")


def to_tensor(pixels: np.ndarray, mean: list[float], std: list[float]) -> Tensor:
    """Scale pixels uint8 `[n, height, width, channels]` to 0..1, normalise: float32 `[n, channels, height, width]`.

    `mean` and `std` hold one value a channel, or one for all.

    Raises:
        InputError: another number of values.
    """
    channels = pixels.shape[-1]
    if len(mean) not in (1, channels):
        raise InputError(
            f"dataset.mean and dataset.std have {len(mean)} values, the pictures {channels} channel(s): "
            "give one value each, such as dataset.mean=[0.5] dataset.std=[0.5], or one per channel"
        )
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    shape = (1, -1, 1, 1)
    return inputs.div_(255).sub_(torch.tensor(mean).view(shape)).div_(torch.tensor(std).view(shape))
