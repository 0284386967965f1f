"""Which neurons take part (paper eq. 1): those above the threshold, or a share chosen by influence or at random.

Positions of a text that are padding have no neurons.
"""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import torch
from torch import Tensor, nn

from .calls import Call
from .response_score import ResponseScore
from .settings import Provenance


def selected_neurons(settings: Provenance, call: Call, g: Tensor, attended: Tensor | None) -> Tensor:
    """The chosen neurons of one use of a layer, bool `[batch, …]` or `[1, …]`, else in the shape of `g`.

    `gradient`: for each input the share of its neurons with the largest `|g o a|`, `a` the layer's own output; for
    those outside the mask of the threshold that is 0. `random`: a share drawn once for each layer, the same for all
    inputs, inside or outside the mask, so that what is batched together makes no difference (but to
    models that cut a batch of texts to its longest, where the layer has another shape).

    Args:
        settings: `neurons`, `neuron_fraction`, `neuron_seed`.
        call: the use of the layer.
        g: the gradient of the target in its output, masked.
        attended: positions of a text that are not padding, in the shape of `g` with ones behind; None: all. A text's
            share is of the neurons there.
    """
    neurons = g[0].numel()
    if settings.neurons == "random":
        random = torch.Generator().manual_seed(settings.neuron_seed * 1_000_003 + crc32(call.layer.encode()))
        drawn = torch.rand(neurons, generator=random).argsort()[: max(1, round(settings.neuron_fraction * neurons))]
        chosen = torch.zeros(neurons, dtype=torch.bool).index_fill_(0, drawn, True)
        return chosen.to(g.device).view(1, *g.shape[1:])
    score = (g * call.examples(call.output, call.axis)).abs()
    there = torch.ones_like(g, dtype=torch.bool)
    if attended is not None:
        there = there & attended
        score = score.masked_fill(~attended, -1)
    wanted = (there.flatten(1).sum(1) * settings.neuron_fraction).round().clamp_min(1)
    place = score.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(1)
    return (place < wanted[:, None]).view(g.shape)


def attended_positions(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor | None:
    """Positions of each text that are not padding: by its `attention_mask`, or by the `padding` token of the model.

    A text that is nothing but padding is its first position. Of a response: those up to its last token that counts.
    """
    if isinstance(model, ResponseScore):
        return model.attended(batch[""])
    tokens, padding = batch.get(""), getattr(model, "padding", None)
    if "attention_mask" in batch:
        attended = batch["attention_mask"] != 0
    elif tokens is not None and isinstance(padding, int) and not tokens.is_floating_point():
        attended = tokens != padding
    else:
        return None
    if attended.dim() != 2:
        return None
    first = torch.arange(attended.shape[1], device=attended.device) == 0
    return attended | (first & ~attended.any(1, keepdim=True))


def positions_of(attended: Tensor | None, activation: Tensor) -> Tensor | None:
    """`attended` in the shape of `activation` `[batch, T, …]`, ones behind; None for what has no such positions.

    The model may have cut off columns at the end where all is padding.
    """
    if attended is None or activation.dim() < 3 or activation.shape[1] > attended.shape[1]:
        return None
    width = activation.shape[1]
    if bool(attended[:, width:].any()):
        return None
    return attended[:, :width].reshape(len(attended), width, *(1,) * (activation.dim() - 2))


def activated_neurons(activation: Tensor, threshold: float, scale: str, attended: Tensor | None = None) -> Tensor:
    """Activated neurons (paper eq. 1): bool, in the shape of `activation` `[batch, …]`; none where there is padding."""
    if scale == "minmax":
        low, high = activation, activation
        if attended is not None:  # else a text's scale would depend on how much padding is behind it
            low, high = activation.masked_fill(~attended, torch.inf), activation.masked_fill(~attended, -torch.inf)
        shape = (-1,) + (1,) * (activation.dim() - 1)
        low, high = low.flatten(1).amin(1).view(shape), high.flatten(1).amax(1).view(shape)
        activation = (activation - low) / (high - low).clamp_min(torch.finfo(activation.dtype).tiny)
    active = activation > threshold
    return active if attended is None else active & attended
