"""What only data, model and configuration together can tell, before anything is trained."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..data.federated import FederatedData
from ..errors import InputError
from .device import choose_device


def check_precision(precision: str, device: str) -> None:
    """Raise InputError for mixed precision (`federation.precision`) without a GPU; `device` as it was asked for."""
    if precision != "float32" and choose_device(device).type == "cpu":
        raise InputError(
            f"federation.precision={precision}: mixed precision is for a GPU, and this run is on the CPU: "
            "federation.precision=float32"
        )


def check_batches(batch_size: int, data: FederatedData, name: str, model: nn.Module) -> None:
    """Raise InputError where a batch has a single example, and the model, called `name`, normalises over the batch."""
    smallest = min(min(len(client.labels), batch_size) for client in data.clients)
    if smallest < 2 and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise InputError(
            f"model={name} normalises over a batch, which one example is too few for: "
            "federation.batch_size=2 or more, and partition.min_examples_per_client=2 or more"
        )


def make_cache(cache: Path) -> None:
    """Make the folder of the training cache; InputError where that cannot be."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"store.cache={cache}: no folder can be made there ({error.strerror})") from error
