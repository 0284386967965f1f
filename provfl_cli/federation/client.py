"""What a client does in a round, and how the global model is evaluated: the same wherever it runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..config import schema
from ..data.federated import ClientData
from ..errors import RunError
from ..fusion.fuse import Fusion
from .optimizers import Step, make_step
from .seeds import derived_seed, generator


def batch_bounds(examples: int, size: int) -> list[tuple[int, int]]:
    """First and last-plus-one example of each batch; a last batch of one joins the one before (BatchNorm needs two)."""
    starts = list(range(0, examples, size))
    if len(starts) > 1 and examples - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], examples], strict=True))


def local_steps(examples: int, settings: schema.Federation) -> int:
    """Optimizer steps that a client with so many examples makes in a round."""
    return settings.local_epochs * len(batch_bounds(examples, settings.batch_size))


def train_client(
    model: nn.Module, client: ClientData, settings: schema.Federation, fusion: Fusion, seed: int, number: int
) -> float:
    """Train `model`, which holds the global weights, in place on a client's share in round `number`.

    Cross entropy, `local_epochs` passes, each in an order of its own. Torch's global generator is seeded (dropout).
    Returns the mean loss over the last pass.

    Raises:
        RunError: when the loss or a weight is no longer finite.
    """
    torch.manual_seed(derived_seed(seed, "client", number, client.id))
    order = generator(seed, "order", number, client.id)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    start = [weight.detach().clone() for weight in weights]
    step = make_step([weight.detach() for weight in weights], settings)
    device = weights[0].device
    inputs, labels = client.inputs.to(device), client.labels.to(device)
    bounds = batch_bounds(len(labels), settings.batch_size)
    model.train()
    for _ in range(settings.local_epochs):
        total = torch.zeros((), device=device)
        permutation = torch.randperm(len(labels), generator=order).to(device)
        for first, last in bounds:
            chosen = permutation[first:last]
            loss = functional.cross_entropy(model(inputs[chosen]), labels[chosen])
            loss.backward()
            _update(weights, start, fusion, step)
            total += loss.detach() * (last - first)
    mean = total.item() / len(labels)
    if not all(torch.isfinite(value).all() for value in [torch.tensor(mean), *model.state_dict().values()]):
        raise RunError(
            f"client {client.id} diverged in round {number} (its loss or weights are no longer finite): "
            f"try a smaller learning rate, such as federation.learning_rate={settings.learning_rate / 10:g}"
        )
    return mean


@torch.no_grad()
def _update(weights: list[nn.Parameter], start: list[Tensor], fusion: Fusion, step: Step) -> None:
    """Step along the gradients, as the fusion corrects them; parameters that the loss does not reach have none."""
    gradients = {position: weight.grad for position, weight in enumerate(weights) if weight.grad is not None}
    reached = list(gradients)
    values = list(gradients.values())
    fusion.correct_gradients(values, [weights[n].detach() for n in reached], [start[n] for n in reached])
    step(reached, values)
    for weight in weights:
        weight.grad = None


@torch.inference_mode()
def evaluate(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[float, int]:
    """Sum of the cross entropy, and number of correct predictions, in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    logits, truth = model(inputs.to(device)), labels.to(device)
    loss = functional.cross_entropy(logits.double() if device.type != "mps" else logits, truth, reduction="sum")
    return loss.item(), int((logits.argmax(1) == truth).sum())
