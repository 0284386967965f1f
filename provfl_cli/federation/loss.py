"""What clients minimise, and how a model is scored on test data: of classes and of responses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import responses

MOST_LOGITS = 2**24  # numbers of logits that an evaluation makes at a time


def is_packed(inputs: Tensor) -> bool:
    """Whether inputs are prompts with responses, int64 `[n, 2, T]`: texts have two axes, pictures four."""
    return inputs.dim() == 3 and not inputs.is_floating_point()


def batch_loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of a batch: over its examples, or over all tokens of its responses and no other."""
    if not is_packed(inputs):
        return functional.cross_entropy(model(inputs), labels)
    inputs = responses.trimmed(inputs)
    first = int(responses.starts(inputs).min()) - 1  # nothing is said before
    said = responses.following(inputs)[:, first:]
    return functional.cross_entropy(model(inputs, first).flatten(0, 1), said.flatten(), ignore_index=responses.NOT_SAID)


def weights_of(inputs: Tensor) -> Tensor:
    """What each example counts in such a mean, int64 `[n]`: 1, or the tokens of its response."""
    if not is_packed(inputs):
        return torch.ones(len(inputs), dtype=torch.int64)
    return (responses.following(inputs) != responses.NOT_SAID).sum(1)


@torch.inference_mode()
def evaluate(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[float, int]:
    """Sum of the cross entropy, and number of correct predictions, in evaluation mode.

    Of responses the sum is over all of their tokens, and one is correct where every token is the likeliest after those
    before it: then it is what the model itself says, token by token.
    """
    model.eval()
    device = next(model.parameters()).device
    exact = device.type != "mps"
    if not is_packed(inputs):
        logits, truth = model(inputs.to(device)), labels.to(device)
        loss = functional.cross_entropy(logits.double() if exact else logits, truth, reduction="sum")
        return loss.item(), int((logits.argmax(1) == truth).sum())
    total, correct, row, vocabulary = 0.0, 0, 0, 0
    while row < len(inputs):
        width = inputs.shape[2] * max(vocabulary, 1)
        part = responses.trimmed(inputs[row : row + (max(MOST_LOGITS // width, 1) if row else 1)]).to(device)
        first = int(responses.starts(part).min()) - 1
        logits, said = model(part, first), responses.following(part)[:, first:]
        vocabulary = logits.shape[2]
        flat = logits.double() if exact else logits
        total += functional.cross_entropy(
            flat.flatten(0, 1), said.flatten(), ignore_index=responses.NOT_SAID, reduction="sum"
        ).item()
        correct += int(((logits.argmax(2) == said) | (said == responses.NOT_SAID)).all(1).sum())
        row += len(part)
    return total, correct
