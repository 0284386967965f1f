"""Causal language models: the networks of `transformers`, from published weights or from the seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..responses import tokens
from .network import Kind, check_positions, network_of, quiet, reason, settings_for, takes

KIND = Kind("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "AutoModelForCausalLM", "causal language model")


class ResponseModel(nn.Module):
    """Prompts and responses int64 `[n, 2, T]` (see `responses.py`) to logits `[n, T, vocabulary]` of `network`.

    The logits at position `t` are those of the token at `t + 1`. Rows are padded on the right, and a causal network
    looks back alone: no padding is seen by any token before it, and no mask is needed.

    `padding` fills rows up, `end` ends a response.
    """

    def __init__(self, network: Any, padding: int, end: int) -> None:
        super().__init__()
        self.network: Any = network
        self.padding, self.end = padding, end

    def forward(self, inputs: Tensor, first: int = 0) -> Tensor:
        """Logits `[n, T - first, vocabulary]`, of the positions from `first` on."""
        said = tokens(inputs)
        width = said.shape[1] - first
        # Of transformers: so many at the end, 0: all.
        keep = {"logits_to_keep": width if first else 0} if takes(self.network, "logits_to_keep") else {}
        logits: Tensor = self.network(input_ids=said, use_cache=False, **keep).logits
        return logits[:, -width:]


def causal_lm(
    classes: int,
    vocabulary: int,
    max_tokens: int,
    padding: int,
    end: int,
    checkpoint: str | None = None,
    architecture: str | None = None,
    config: Mapping[str, Any] | None = None,
    checkpointing: bool = False,
) -> nn.Module:
    """A `ResponseModel` of any architecture that transformers has a causal language model for.

    `classes`, the number of topics, is nothing that the network knows of. `checkpoint`: folder of published weights
    (safetensors), whose embeddings are resized where they know another number of tokens than `vocabulary`; None: all
    weights are drawn. `architecture`, `config`: as of `text.sequence_classifier`. `checkpointing`: activations are
    computed again in the backward pass instead of kept: less memory, a third more time.

    Raises:
        InputError: no such architecture or field, a checkpoint of another architecture or without its weights, more
            tokens than it has positions, or a network that looks ahead.
    """
    del classes
    with quiet():
        settings = settings_for(KIND, checkpoint, architecture, dict(config or {}))
        settings.use_cache, settings.return_dict = True, True
        if checkpoint is None:
            settings.eos_token_id, settings.bos_token_id = end, None
        network = network_of(KIND, settings, checkpoint, vocabulary, padding)
        check_positions(network, max_tokens)
        if checkpointing:
            _checkpoint(network)
        model = ResponseModel(network, padding, end)
        _check_looks_back(model, vocabulary, max_tokens)
    return model


def _checkpoint(network: Any) -> None:
    """Let a network of transformers compute activations again while it is trained."""
    switch = getattr(network, "activation_checkpointing_enable", None)  # from transformers 5.24 on
    (switch or network.gradient_checkpointing_enable)()
    # It marks what comes out of the embedding as trained, in place and for good, which another way of checkpointing
    # needs: a trace would see the change.
    network.disable_input_require_grads()


@torch.no_grad()
def _check_looks_back(model: ResponseModel, vocabulary: int, max_tokens: int) -> None:
    """Raise InputError unless there are logits of every token, and those before a token do not depend on it."""
    kind = model.network.config.model_type
    width = min(max_tokens, 6)
    said = (model.padding + 1 + torch.arange(width) % (vocabulary - 1)) % vocabulary
    other = said.clone()
    other[-1] = (said[-1] + 1) % vocabulary
    training = model.training
    model.eval()
    try:
        both = model(torch.stack([said, other])[:, None].expand(-1, 2, -1))
    except Exception as error:
        raise InputError(f"model.architecture={kind}: does not continue plain texts ({reason(error)})") from error
    finally:
        model.train(training)
    before = both[:, :-1]
    scale = float(before.abs().max()) or 1.0
    if both.shape != (2, width, vocabulary) or not torch.allclose(before[0], before[1], rtol=1e-3, atol=1e-3 * scale):
        raise InputError(
            f"model.architecture={kind}: what comes later changes its logits, which a language model that generates "
            "cannot have: choose another, such as llama, gpt2, qwen3 or gemma2"
        )
