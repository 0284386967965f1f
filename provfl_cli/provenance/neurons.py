"""A share of each layer's neurons, chosen by their influence or at random: the paper's ablation of neuron selection."""

from __future__ import annotations

from zlib import crc32

import torch
from torch import Tensor

from ..config.schema import Provenance
from .calls import Call


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
