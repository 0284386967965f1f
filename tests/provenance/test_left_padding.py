"""Texts padded on the left, as transformers' own generation has them: the padding changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from provfl_cli.provenance import trace

from ..response_models import PADDING, prompts, response_model
from .federations import federation, settings


class Next(nn.Module):
    """A causal network of transformers, to the logits of the token that comes next."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None) -> Tensor:
        logits: Tensor = self.network(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).logits
        return logits[:, -1]


def padded(texts: list[list[int]], positions: bool, filled: int) -> dict[str, Tensor]:
    width = max(map(len, texts))
    mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts])
    rows = torch.tensor([[filled] * (width - len(text)) + text for text in texts])
    inputs = {"input_ids": rows, "attention_mask": mask}
    return {**inputs, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if positions else inputs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "positions", "tolerance"),
    [
        ("gpt2", True, 1e-12),
        ("llama, grouped queries", True, 1e-12),
        ("llama, grouped queries", False, 1e-6),  # positions count from the padding; their distances are the same
    ],
)
def test_padding_on_the_left_changes_nothing(name: str, positions: bool, tolerance: float) -> None:
    model = Next(response_model(name).network)
    source, _ = federation(model, clients=3)
    texts, wanted = prompts((4, 2, 7)), settings(threshold=0.0)
    beside = trace(model, padded(texts, positions, PADDING), source, wanted)
    filled = trace(model, padded(texts, positions, 9), source, wanted)
    np.testing.assert_array_equal(beside.values, filled.values)
    for text, values in zip(texts, beside.values, strict=True):
        alone = trace(model, padded([text], positions, PADDING), source, wanted).values[0]
        np.testing.assert_allclose(values, alone, rtol=0, atol=tolerance * np.abs(alone).max())
