"""What contributions are compared with: autograd, one input at a time."""

import torch
from torch import Tensor, nn

from provfl_cli.provenance.contributions import Contributions
from provfl_cli.provenance.targets import target_value
from provfl_cli.provenance.tracing import trace

from .federations import federation, settings

PLAIN = {"layer_decay": 1.0, "threshold": None}


def by_autograd(model: nn.Module, inputs: Tensor, clients: list[dict], base: dict, kind: str) -> Tensor:
    """`<W_k - base, dy_b / dW>`, one input and one autograd call at a time."""
    model.eval().requires_grad_(True)
    names = [n for n, _ in model.named_parameters()]
    rows = []
    for b in range(len(inputs)):
        logits = model(inputs[b : b + 1])
        y = target_value(kind, logits, logits.argmax(1))[0]
        gradients = torch.autograd.grad(y, list(model.parameters()), allow_unused=True)
        rows.append(
            [
                sum(float(((c[n] - base[n]) * g).sum()) for n, g in zip(names, gradients, strict=True) if g is not None)
                for c in clients
            ]
        )
    return torch.tensor(rows, dtype=torch.float64)


def assert_exact(
    model: nn.Module, inputs: Tensor, kind: str = "centred", covered: float = 1.0, **changed: object
) -> None:
    model = model.double()
    source, clients = federation(model)
    ours = trace(model, inputs, source, settings(**{**PLAIN, "target": kind, **changed}))
    reference = by_autograd(model, inputs, clients, source.before, kind)
    scale = reference.abs().max()
    assert float((torch.as_tensor(ours.values) - reference).abs().max() / scale) < 1e-9
    assert ours.covered == covered
    assert ours.notes == ()  # the layers' own rules did it all
    # Conservation, from the recorded outputs of the running model.
    assert float(ours.residuals.max()) < 1e-9


def close(ours: torch.Tensor, reference: torch.Tensor, tolerance: float = 1e-4) -> None:
    error = (torch.as_tensor(ours) - reference).abs().max() / reference.abs().max()
    assert float(error) < tolerance, f"relative error {float(error):.1e}"


def assert_all_covered(model: nn.Module, inputs: Tensor, **changed: object) -> Contributions:
    """All parameters are covered, and contributions are those of autograd."""
    source, clients = federation(model)
    ours = trace(model, inputs, source, settings(**{**PLAIN, **changed}))
    reference = by_autograd(model, inputs, clients, source.before, "centred")
    assert float((torch.as_tensor(ours.values) - reference).abs().max() / reference.abs().max()) < 1e-7
    assert float(ours.residuals.max()) < 1e-9
    assert ours.covered == 1.0, ours.uncovered
    return ours
