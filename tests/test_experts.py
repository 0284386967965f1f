"""Mixtures of experts: each expert by products of its own, whichever way the network comes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from provfl_cli.models.causal import causal_lm
from provfl_cli.run.recorded_model import language_network

from .response_models import ARCHITECTURES, END, PADDING, VOCABULARY


def test_a_published_mixture_is_computed_so_that_it_can_be_checked(tmp_path: Path) -> None:
    """Conservation and float64 need it: in transformers' function for all experts at once there is neither."""
    architecture, config = ARCHITECTURES["mixtral, experts"]
    drawn: Any = causal_lm(1, VOCABULARY, 32, PADDING, END, architecture=architecture, config=config)
    drawn.network.save_pretrained(tmp_path)
    published: Any = causal_lm(1, VOCABULARY, 32, PADDING, END, checkpoint=str(tmp_path))
    recorded: Any = language_network(f"hf:{tmp_path}", drawn.network.state_dict())[0]
    row = torch.tensor([[3, 4, 5]])
    expected = drawn.network.double()(row).logits
    for network in (published.network, recorded):
        assert network.config._experts_implementation == "eager"
        torch.testing.assert_close(network.double()(row).logits, expected)
