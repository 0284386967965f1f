"""What only data, model and configuration together can tell, before anything is trained."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..config.schema import Config
from ..data.federated import FederatedData
from ..errors import InputError
from ..fusion.privacy import check_model
from ..provenance.depth import chosen_layers
from .device import choose_device


def check_fit(config: Config, data: FederatedData, model: nn.Module) -> None:
    """Raise InputError where training or tracing could not work.

    Layers to trace that the model does not have; mixed precision without a GPU; a batch of one example for a model that
    normalises over the batch; a cache folder that cannot be made.
    """
    precision = config.federation.precision
    if precision != "float32" and choose_device(config.device).type == "cpu":
        raise InputError(
            f"federation.precision={precision}: mixed precision is for a GPU, and this run is on the CPU: "
            "federation.precision=float32"
        )
    check_model(config.privacy, model)
    chosen_layers(dict(model.named_modules()), config.provenance.layers)
    smallest = min(min(len(client.labels), config.federation.batch_size) for client in data.clients)
    if smallest < 2 and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise InputError(
            f"model={config.model.name} normalises over a batch, which one example is too few for: "
            "federation.batch_size=2 or more, and partition.min_examples_per_client=2 or more"
        )
    cache = Path(config.store.cache)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"store.cache={cache}: no folder can be made there ({error.strerror})") from error
