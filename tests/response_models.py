"""Small causal language models of transformers for tests, and responses that they generate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from provfl_cli.models.causal import ResponseModel, causal_lm
from provfl_cli.responses import pack

VOCABULARY, PADDING, END = 40, 0, 1
WIDTH: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
GROUPED: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
HEADS: dict[str, Any] = {**GROUPED, "head_dim": 4}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_inner": 24}),
    "llama, grouped queries": ("llama", {**WIDTH, **HEADS}),
    "smollm2, tied": ("llama", {**WIDTH, **HEADS, "tie_word_embeddings": True}),
    "gemma2, capped logits": ("gemma2", {**WIDTH, **HEADS, "query_pre_attn_scalar": 4}),
    "gemma3": ("gemma3_text", {**WIDTH, **HEADS, "query_pre_attn_scalar": 4}),
    "qwen2, biases": ("qwen2", {**WIDTH, **GROUPED}),
    "qwen3, norms of heads": ("qwen3", {**WIDTH, **HEADS}),
    "mixtral, experts": ("mixtral", {**WIDTH, **HEADS, **EXPERTS, "num_local_experts": 4}),
    "qwen3, experts": ("qwen3_moe", {**WIDTH, **GROUPED, **EXPERTS, "num_experts": 4, "moe_intermediate_size": 8}),
}


def response_model(name: str, seed: int = 0) -> ResponseModel:
    """A small one of `ARCHITECTURES`, in float64 and evaluation mode."""
    torch.manual_seed(seed)
    architecture, config = ARCHITECTURES[name]
    config = {**config, **({} if architecture == "gpt2" else {"max_position_embeddings": 32})}
    model: Any = causal_lm(1, VOCABULARY, 32, PADDING, END, architecture=architecture, config=config)
    with torch.no_grad():  # as drawn, attention looks everywhere alike, and hardly anything depends on it
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.dim() > 1 else 1)
    result: ResponseModel = model.double().eval()
    return result


def prompts(lengths: tuple[int, ...], seed: int = 1) -> list[list[int]]:
    """Random prompts of these lengths."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(2, VOCABULARY, (length,), generator=random).tolist() for length in lengths]


@torch.no_grad()
def greedy(model: nn.Module, prompt: list[int], count: int) -> list[int]:
    """So many tokens, each the one with the largest logit after all before it: no cache, one pass for each."""
    said = list(prompt)
    for _ in range(count):
        said.append(int(model(torch.tensor(said).expand(1, 2, -1))[0, -1].argmax()))
    return said[len(prompt) :]


def some_responses(model: nn.Module, padding: int = PADDING) -> tuple[Tensor, list[list[int]], list[list[int]]]:
    """Two responses of three and of five tokens that the model generates, packed, and their prompts and tokens."""
    asked = prompts((4, 2))
    said = [greedy(model, asked[0], 3), greedy(model, asked[1], 5)]
    return pack(asked, said, padding), asked, said
