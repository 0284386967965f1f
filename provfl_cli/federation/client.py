"""What a client does in a round, and how the global model is evaluated: the same wherever it runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from .. import responses
from ..config import schema
from ..data.federated import ClientData
from ..errors import TrainingFailed
from ..fusion.fuse import Fusion
from ..seeds import derived_seed, generator, seed_torch
from ..store.rounds import Round
from .loss import batch_loss, is_packed, weights_of
from .optimizers import Step, clip, make_step, rate
from .participation import Roster, rosters, without
from .sharing import stand_still

WINDOW = 16  # batches of texts among which examples of one length are sought


def batch_bounds(examples: int, size: int) -> list[tuple[int, int]]:
    """First and last-plus-one example of each batch; a last batch of one joins the one before (BatchNorm needs two)."""
    starts = list(range(0, examples, size))
    if len(starts) > 1 and examples - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], examples], strict=True))


def text_lengths(tokens: Tensor, padding: int) -> Tensor:
    """Tokens of each text, int64 `[n]`, in `[n, T]` padded on the right with `padding`; one inside a text counts."""
    return ((tokens != padding) * torch.arange(1, tokens.shape[1] + 1, device=tokens.device)).amax(1)


def batches(examples: int, size: int, order: torch.Generator, lengths: Tensor | None = None) -> list[Tensor]:
    """Positions of the examples of each batch of a pass, in the order in which they are used; every example once.

    Shuffled. With `lengths` of texts `[n]` a batch holds texts of similar lengths, so that little of it is padding:
    the shuffled examples are sorted within windows of `WINDOW` batches, then whole batches are shuffled.
    """
    shuffled, bounds = torch.randperm(examples, generator=order), batch_bounds(examples, size)
    if lengths is None:
        return [shuffled[first:last] for first, last in bounds]
    lengths = lengths.cpu()
    windows = shuffled.split(WINDOW * size)
    ordered = torch.cat([window[lengths[window].argsort(stable=True)] for window in windows])
    turns = torch.randperm(len(bounds), generator=order).tolist()
    return [ordered[slice(*bounds[turn])] for turn in turns]


def local_steps(examples: int, settings: schema.Federation, epochs: int | None = None) -> int:
    """Optimizer steps that a client with so many examples makes in `epochs` passes (None: `local_epochs`)."""
    steps = -(-len(batch_bounds(examples, settings.batch_size)) // settings.accumulate)
    return (epochs or settings.local_epochs) * steps


def fused_steps(roster: Roster, examples: Sequence[int], settings: schema.Federation) -> list[int]:
    """Optimizer steps behind each piece of work that a round fuses, of clients with so many `examples`, in its order.

    Late work is all of `local_epochs`.
    """
    epochs = {participant.position: participant.epochs for participant in roster.trained if not participant.delay}
    return [
        local_steps(count, settings, epochs.get(work.position))
        for count, work in zip(examples, roster.fused, strict=True)
    ]


def steps_made(examples: Mapping[int, int], stored: Round, settings: schema.Federation, seed: int) -> list[int]:
    """Optimizer steps of each client of a stored round, as its fusion counted them.

    Args:
        examples: training examples of every client that was kept, by its number, ascending.
        stored: the round.
        settings, seed: of the run.
    """
    ids, counts = list(examples), list(examples.values())
    planned = rosters(settings, ids, counts, seed, settings.rounds)
    failed = {metrics.round: [ids.index(client) for client in metrics.failed] for metrics in stored.history}
    roster = without(planned, failed)[stored.number - 1]
    return fused_steps(roster, stored.examples, settings)


def trained_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that clients train, by name; one that is used twice has one name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def train_client(
    model: nn.Module,
    client: ClientData,
    settings: schema.Federation,
    fusion: Fusion,
    seed: int,
    number: int,
    padding: int | None = None,
    epochs: int | None = None,
    correction: Sequence[Tensor] | None = None,
    private: Collection[str] = (),
    frozen: Collection[str] = (),
    phase: str = "",
) -> float:
    """Train `model`, which holds the global weights, in place on a client's share in round `number`.

    Cross entropy (of responses: of their tokens alone), `epochs` passes (None: `local_epochs`), each in an order of its
    own; `padding`: the token that pads texts, None for what is none. A step takes the mean gradient over the examples
    of `accumulate` batches; `correction`, a tensor for each of the `trained_weights`, is added to it after the fusion's
    own (control variates). Mixed `precision` computes the model's outputs in that type where torch's autocast does;
    weights, gradients and steps stay float32. Torch's global generator is seeded (dropout). Orders and dropout follow
    from the seed, the round and the client's data, not from its number: clients with the same data return the same
    model. `private` are the names of weights that the fusion has no part in, `frozen` of tensors whose modules stand
    still; `phase` says what is trained apart from the rest of the round, with random draws of its own. Returns the mean
    loss over the last pass.

    Raises:
        TrainingFailed: when the loss or a weight is no longer finite.
    """
    trained = trained_weights(model)
    weights, fused = list(trained.values()), [name not in private for name in trained]
    device = weights[0].device
    seed_torch(derived_seed(seed, f"{phase}client", number, client.fingerprint), device)
    order = generator(seed, f"{phase}order", number, client.fingerprint)
    start = [weight.detach().clone() for weight in weights]
    step = make_step([weight.detach() for weight in weights], settings, partial(rate, settings, number))
    inputs, labels, lengths, mixed = _ready(model, client, settings, device, padding, frozen)
    counts = weights_of(client.inputs)
    for _ in range(epochs or settings.local_epochs):
        total = torch.zeros((), device=device)
        indices = batches(len(labels), settings.batch_size, order, lengths)
        chosen = torch.cat(indices).to(device).split([len(batch) for batch in indices])  # one transfer a pass
        for first in range(0, len(chosen), settings.accumulate):
            group = chosen[first : first + settings.accumulate]
            shares = [int(counts[batch].sum()) for batch in indices[first : first + settings.accumulate]]
            for batch, share in zip(group, shares, strict=True):
                with mixed:
                    loss = batch_loss(model, inputs[batch], labels[batch])
                # A batch counts by its examples (tokens): together they give the gradient of one large batch.
                _backward(loss, share / sum(shares))
                total += loss.detach() * share
            _update(weights, start, fusion, settings.clip_norm, step, correction, fused)
    mean = total.item() / int(counts.sum())
    if not all(torch.isfinite(value).all() for value in [torch.tensor(mean), *model.state_dict().values()]):
        raise TrainingFailed(
            f"client {client.id} diverged in round {number} (its loss or weights are no longer finite): "
            f"try a smaller learning rate, such as federation.learning_rate={settings.learning_rate / 10:g}"
        )
    return mean


def full_gradient(
    model: nn.Module,
    client: ClientData,
    settings: schema.Federation,
    seed: int,
    number: int,
    padding: int | None = None,
    frozen: Collection[str] = (),
) -> list[Tensor]:
    """The mean gradient of a client's loss over its whole share, at the weights that `model` holds.

    One tensor for each of the `trained_weights`, 0 where the loss does not reach. It is the gradient that training
    would follow: dropout is on, batch normalisation uses the statistics of batches, weight decay is part of the loss;
    nothing is clipped. Modules whose tensors are `frozen` stand still. The model is left as it was, buffers included.
    """
    weights = list(trained_weights(model).values())
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    device = weights[0].device
    seed_torch(derived_seed(seed, "control", number, client.fingerprint), device)
    order = generator(seed, "control order", number, client.fingerprint)
    inputs, labels, lengths, mixed = _ready(model, client, settings, device, padding, frozen)
    counts = weights_of(client.inputs)
    for batch in batches(len(labels), settings.batch_size, order, lengths):
        chosen = batch.to(device)
        with mixed:
            loss = batch_loss(model, inputs[chosen], labels[chosen])
        _backward(loss, int(counts[batch].sum()) / int(counts.sum()))
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
        gradients = [
            torch.zeros_like(weight) if weight.grad is None else weight.grad + settings.weight_decay * weight
            for weight in weights
        ]
    for weight in weights:
        weight.grad = None
    return gradients


def _backward(loss: Tensor, part: float) -> None:
    """Add `part` of the gradient of a loss to the weights'. Given it as a gradient, torch would first import sympy."""
    (loss if part == 1 else loss * part).backward()


def _ready(
    model: nn.Module,
    client: ClientData,
    settings: schema.Federation,
    device: torch.device,
    padding: int | None,
    frozen: Collection[str],
) -> tuple[Tensor, Tensor, Tensor | None, AbstractContextManager[object]]:
    """A client's inputs, labels and lengths of texts, and what outputs are computed in; the model is set to train."""
    model.train()
    stand_still(model, frozen)
    if is_packed(client.inputs):
        lengths: Tensor | None = responses.lengths(client.inputs)
    else:
        lengths = None if padding is None else text_lengths(client.inputs, padding)
    return client.inputs.to(device), client.labels.to(device), lengths, _mixed(settings, device)


def _mixed(settings: schema.Federation, device: torch.device) -> AbstractContextManager[object]:
    """What a model's outputs are computed in."""
    if settings.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, settings.precision))


@torch.no_grad()
def _update(
    weights: list[nn.Parameter],
    start: list[Tensor],
    fusion: Fusion,
    clip_norm: float | None,
    step: Step,
    correction: Sequence[Tensor] | None = None,
    fused: Sequence[bool] | None = None,
) -> None:
    """Step along the gradients, as the fusion corrects them; parameters that the loss does not reach have none.

    Clipped before the fusion's correction: the bound is meant for the loss of a batch; what pulls a client back to the
    others (FedProx) has to keep its strength when the loss is steep. It has no part in weights that are not `fused`.
    """
    for position, weight in enumerate(weights):
        if weight.grad is None and correction is not None and correction[position].any():
            weight.grad = torch.zeros_like(weight)  # not reached here, but elsewhere: it is corrected all the same
    gradients = {position: weight.grad for position, weight in enumerate(weights) if weight.grad is not None}
    reached = list(gradients)
    values = list(gradients.values())
    if clip_norm is not None:
        clip(values, clip_norm)
    sent = [n for n in reached if fused is None or fused[n]]
    fusion.correct_gradients(
        [gradients[n] for n in sent], [weights[n].detach() for n in sent], [start[n] for n in sent]
    )
    if correction is not None:
        torch._foreach_add_(values, [correction[n] for n in reached])
    step(reached, values)
    for weight in weights:
        weight.grad = None
