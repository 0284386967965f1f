"""Small networks of transformers for tests, and tokens for them."""

from __future__ import annotations

from typing import Any

import torch

from provfl_cli.config.schema import Model
from provfl_cli.data.federated import Texts

SMALL: dict[str, dict[str, Any]] = {
    "openai-gpt": {"n_layer": 2, "n_embd": 16, "n_head": 2},
    "gpt2": {"n_layer": 2, "n_embd": 16, "n_head": 2},
    "bert": {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32},
    "distilbert": {"n_layers": 2, "dim": 16, "n_heads": 2, "hidden_dim": 32},
    "roberta": {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32},
    "qwen2": {
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
    },
}
FORM = Texts(vocabulary=50, max_tokens=32, padding=0)


def text_model(kind: str | None, **options: Any) -> Model:
    """The configuration of a small one; `options` instead of its own, or beside them."""
    own = {"architecture": kind, **({"config": SMALL[kind]} if kind in SMALL else {})}
    return Model("provfl_cli.models.text.sequence_classifier", "small", input="text", options={**own, **options})


def some_texts(padding: int, lengths: tuple[int, ...] = (3, 20, 0, 8, 1), width: int = 20) -> torch.Tensor:
    """Random tokens `[n, width]` of 50, padded on the right to these lengths."""
    random = torch.Generator().manual_seed(0)
    tokens = (torch.randint(1, 50, (len(lengths), width), generator=random) + padding) % 50
    return tokens.where(torch.arange(width) < torch.tensor(lengths)[:, None], torch.tensor(padding))
