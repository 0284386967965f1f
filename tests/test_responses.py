"""Prompts and responses in one tensor: what is packed is got back, and the loss sees the response alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from provfl_cli.models.causal import causal_lm
from provfl_cli.responses import (
    NOT_SAID,
    following,
    lengths,
    pack,
    prompts_of,
    responses_of,
    starts,
    tokens,
    trimmed,
)

TOKENS = st.lists(st.integers(1, 9), min_size=1, max_size=6)
ROWS = st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_what_is_packed_is_got_back(rows: list[tuple[list[int], list[int]]]) -> None:
    prompts, responses = map(list, zip(*rows, strict=True))
    packed = pack(prompts, responses, padding=0)
    assert prompts_of(packed) == prompts
    assert responses_of(packed) == responses
    for number, (prompt, response) in enumerate(rows):
        length = len(prompt) + len(response)
        assert starts(packed)[number] == len(prompt)
        assert lengths(packed)[number] == length
        assert tokens(packed)[number, :length].tolist() == prompt + response
        assert (tokens(packed)[number, length:] == 0).all()
        said = following(packed)[number]
        places = torch.nonzero(said != NOT_SAID).flatten()
        assert torch.equal(said[places], tokens(packed)[number, places + 1])  # each is the token that comes next
    assert torch.equal(trimmed(functional.pad(packed, (0, 3), value=NOT_SAID)), packed)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.integers(2, 8))
def test_what_is_too_long_loses_the_beginning_of_its_prompt(
    rows: list[tuple[list[int], list[int]]], longest: int
) -> None:
    prompts, responses = map(list, zip(*rows, strict=True))
    packed = pack(prompts, responses, padding=0, longest=longest)
    assert packed.shape[2] <= longest
    for prompt, response, kept, said in zip(prompts, responses, prompts_of(packed), responses_of(packed), strict=True):
        assert prompt[-len(kept) :] == kept
        assert response[: len(said)] == said
        if len(prompt) + len(response) > longest:
            assert len(kept) + len(said) == longest
            assert said == response or len(kept) <= max(longest // 2, 1)


def test_a_response_needs_a_token_before_it() -> None:
    with pytest.raises(ValueError, match="one token"):
        pack([[]], [[1]], padding=0)
    with pytest.raises(ValueError, match="one token"):
        pack([[1]], [[]], padding=0)


def test_padding_changes_no_logit() -> None:
    torch.manual_seed(0)
    config = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}
    model = causal_lm(2, 20, 12, padding=0, end=1, architecture="llama", config=config).eval()
    packed = pack([[3, 4, 5], [6]], [[7, 8, 9, 1], [3, 1]], padding=0)
    both = model(packed)
    assert both.shape == (2, 7, 20)
    assert torch.allclose(model(packed[1:, :, :3])[0], both[1, :3], atol=1e-6)
    assert torch.allclose(model(packed, 2), both[:, 2:], atol=1e-6)


def test_checkpointing_changes_no_gradient_and_is_off_while_evaluating() -> None:
    config = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}
    packed, gradients, kept = pack([[3, 4, 5], [6]], [[7, 8, 9, 1], [3, 1]], padding=0), [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = causal_lm(2, 20, 12, 0, 1, architecture="llama", config=config, checkpointing=checkpointing)
        for training in (False, True):
            calls: list[str] = []
            network: Any = model.network
            hook = network.model.layers[0].self_attn.register_forward_hook(lambda *_, seen=calls: seen.append("call"))
            model.train(training)
            model.zero_grad()
            model(packed).logsumexp(2).sum().backward()
            hook.remove()
            kept.append(len(calls))
            gradients.append(
                torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
            )
    assert kept == [1, 1, 1, 2]  # forward again in the backward pass
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
