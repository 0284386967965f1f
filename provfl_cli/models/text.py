"""Text classifiers: the sequence-classification networks of `transformers`, from published weights or from the seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .network import Kind, check_positions, network_of, quiet, reason, settings_for

KIND = Kind(
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForSequenceClassification",
    "sequence classification",
    new_head=True,
)


class TextClassifier(nn.Module):
    """Tokens int64 `[n, T]`, padded on the right with `padding`, to the logits `[n, classes]` of `network`.

    Columns at the end in which every text is padded are cut, the others are hidden by an attention mask: padding
    changes no logit but by rounding, and has a gradient of exactly 0. What is looked at is the token, so the padding
    inside a text is not seen either. The first position is always seen: a text without tokens is its first padding.
    """

    def __init__(self, network: Any, padding: int) -> None:
        super().__init__()
        self.network: Any = network
        self.padding = padding

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `[n, classes]` of tokens `[n, T]`."""
        seen = tokens != self.padding
        longest = int((seen * torch.arange(tokens.shape[1], device=tokens.device)).amax()) + 1
        tokens, mask = tokens[:, :longest], seen[:, :longest].long()
        mask[:, 0] = 1  # a softmax over nothing is uniform or NaN, depending on the architecture
        logits: Tensor = self.network(input_ids=tokens, attention_mask=mask).logits
        return logits


def sequence_classifier(
    classes: int,
    vocabulary: int,
    max_tokens: int,
    padding: int,
    checkpoint: str | None = None,
    architecture: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A `TextClassifier` of any architecture that transformers has a sequence-classification network for.

    `checkpoint`: folder of published weights (safetensors); its head is drawn anew where it has none of `classes`, and
    its embeddings are resized where it knows another number of tokens than `vocabulary`. None: all weights are drawn.
    `architecture`: transformers' name of it, such as openai-gpt; None: what the checkpoint is.
    `config`: fields of that architecture's own configuration, such as n_layer, that replace the checkpoint's or the
    defaults. Attention is transformers' choice: torch's scaled dot product, or its own where an architecture has none.

    Raises:
        InputError: no such architecture or field, a checkpoint of another architecture or without its weights, more
            tokens than it has positions, or a network whose logits depend on padding.
    """
    with quiet():
        settings = settings_for(KIND, checkpoint, architecture, dict(config or {}))
        settings.num_labels = classes
        # Not what only generation needs, nor tuples instead of named outputs, whatever a published config asks for.
        settings.use_cache, settings.return_dict = False, True
        network = network_of(KIND, settings, checkpoint, vocabulary, padding)
        check_positions(network, max_tokens)
        model = TextClassifier(network, padding)
        _check_padding(model, classes, vocabulary, max_tokens)
    return model


@torch.no_grad()
def _check_padding(model: TextClassifier, classes: int, vocabulary: int, max_tokens: int) -> None:
    """Raise InputError unless the logits are as many as classes, and the same with and without padding."""
    kind = model.network.config.model_type
    width = min(max_tokens, 6)
    # Different tokens, none of them the padding; the second text is cut in half.
    tokens = (model.padding + 1 + torch.arange(2 * width).view(2, width) % (vocabulary - 1)) % vocabulary
    half = max(width // 2, 1)
    tokens[1, half:] = model.padding
    training = model.training
    model.eval()
    try:
        padded, alone = model(tokens)[1], model(tokens[1:, :half])[0]
    except Exception as error:
        raise InputError(f"model.architecture={kind}: does not classify plain texts ({reason(error)})") from error
    finally:
        model.train(training)
    if padded.shape != (classes,) or not torch.allclose(padded, alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max())):
        raise InputError(
            f"model.architecture={kind}: its logits depend on how far a text is padded on the right, which tracing "
            "cannot allow: choose another, such as bert, distilbert, gpt2 or openai-gpt"
        )
