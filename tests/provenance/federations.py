"""Small federations for the provenance tests: random clients near a random global model."""

import torch
from torch import Tensor, nn

from provfl_cli.provenance.settings import Provenance
from provfl_cli.provenance.state_dicts import RoundInMemory, from_state_dicts


def settings(**changed: object) -> Provenance:
    """The default preset with some settings changed."""
    values: dict[str, object] = {
        "name": "test",
        "of": "updates",
        "client_weighting": "none",
        "target": "centred",
        "threshold": None,
        "threshold_scale": "absolute",
        "layer_decay": 0.9,
        "layers": "all",
        "rounds": "last",
        "batch_size": None,
        "memory_mb": 1024,
    }
    return Provenance(**{**values, **changed})  # type: ignore[arg-type]


def perturbed(state: dict[str, Tensor], scale: float, seed: int) -> dict[str, Tensor]:
    """`state` with noise of `scale` on everything that floats; variances stay positive."""
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            result[name] = tensor.clone()
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype) * scale
        result[name] = (tensor + noise).abs() + 0.1 if name.endswith("running_var") else tensor + noise
    return result


def federation(
    model: nn.Module, clients: int = 4, scale: float = 0.05, seed: int = 0
) -> tuple[RoundInMemory, list[dict]]:
    """One round of FedAvg from `model`'s weights, and the clients' state dicts; tied parameters stay tied."""

    def through(state: dict[str, Tensor]) -> dict[str, Tensor]:
        model.load_state_dict(state)
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    previous = through(perturbed(model.state_dict(), 0.05, seed))
    models = [through(perturbed(previous, scale, seed + 1 + k)) for k in range(clients)]
    return from_state_dicts(models, [10 * (k + 1) for k in range(clients)], previous), models
