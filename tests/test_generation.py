"""What a language model says: the same with and without kept keys, alone and among others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from provfl_cli.federation.loss import evaluate
from provfl_cli.models.causal import ResponseModel, causal_lm
from provfl_cli.models.generation import generate
from provfl_cli.responses import pack

PROMPTS = [[3, 4, 5, 6], [7], [8, 9], [4, 3, 9, 9, 5, 7, 3]]
SMALL = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": SMALL | {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "gpt2": {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 32},
    "gemma2": SMALL | {"num_key_value_heads": 2, "head_dim": 4, "sliding_window": 4},
    "qwen3": SMALL | {"num_key_value_heads": 2, "head_dim": 4},
    "smollm3": SMALL | {"num_key_value_heads": 2},
}


def model_of(architecture: str = "llama") -> ResponseModel:
    torch.manual_seed(1)
    model = causal_lm(2, 30, 32, 0, 1, architecture=architecture, config=ARCHITECTURES[architecture])
    assert isinstance(model, ResponseModel)
    for weight in model.parameters():  # else it says the same token all the time
        weight.data += 0.5 * torch.randn_like(weight)
    return model.eval()


def said_plainly(model: ResponseModel, prompt: list[int], most: int) -> list[int]:
    """A whole forward pass for each token, of this prompt alone."""
    said: list[int] = []
    with torch.no_grad():
        while len(said) < most and (not said or said[-1] != model.end):
            row = torch.tensor([prompt + said])
            said.append(int(model.network(input_ids=row, use_cache=False).logits[0, -1].argmax()))
    return said


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_neither_kept_keys_nor_other_prompts_change_a_token(architecture: str) -> None:
    model = model_of(architecture)
    plainly = [said_plainly(model, prompt, 9) for prompt in PROMPTS]
    assert generate(model, PROMPTS, 9) == plainly
    assert generate(model, PROMPTS, 9, cached=False) == plainly
    assert len({tuple(said) for said in plainly}) > 1


def test_sampling_follows_from_its_seed_alone() -> None:
    model = model_of()
    sampled = generate(model, PROMPTS, 8, temperature=2.0, seed=3)
    assert sampled == generate(model, PROMPTS, 8, temperature=2.0, seed=3, cached=False)
    assert sampled[:2] == generate(model, PROMPTS[:2], 8, temperature=2.0, seed=3)
    assert sampled != generate(model, PROMPTS, 8, temperature=2.0, seed=4)
    assert generate(model, PROMPTS, 8, temperature=1e-6) == generate(model, PROMPTS, 8)


def test_what_is_drawn_has_the_model_s_probabilities() -> None:
    model = model_of()
    count = 400
    drawn = generate(model, [[7, 8]] * count, 1, temperature=1.5)
    with torch.no_grad():
        logits = model.network(input_ids=torch.tensor([[7, 8]])).logits[0, -1]
    expected = (logits / 1.5).softmax(0)
    seen = torch.bincount(torch.tensor(drawn).flatten(), minlength=30) / count
    assert (seen - expected).abs().max() < 4 * 0.5 / count**0.5


def test_the_limit_of_each_response_and_what_is_asked_of_a_temperature() -> None:
    model = model_of()
    limits = [3, 0, 1, 5]
    said = generate(model, PROMPTS, limits)
    whole = generate(model, PROMPTS, 5)
    assert said == [response[:limit] for response, limit in zip(whole, limits, strict=True)]
    with pytest.raises(ValueError, match="temperature"):
        generate(model, PROMPTS, 3, temperature=0.0)


def test_a_response_is_exact_where_the_model_says_it_itself() -> None:
    model = model_of()
    said = generate(model, PROMPTS, 6)
    other = [
        [*response[:-1], (response[-1] + 1) % 30] if number % 2 else response for number, response in enumerate(said)
    ]
    _, right = evaluate(model, pack(PROMPTS, said, 0), torch.zeros(4))
    _, some = evaluate(model, pack(PROMPTS, other, 0), torch.zeros(4))
    assert (right, some) == (4, 2)
