"""Networks that traces are tested on: LeNet, and text classifiers of several architectures."""

from collections.abc import Callable

import torch
import transformers
from torch import Tensor, nn


class LeNet(nn.Module):
    """Written with modules, so that the reference can hook activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act1 = nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(inplace=True)
        self.conv2, self.act2 = nn.Conv2d(6, 16, 5), nn.ReLU()
        self.fc1, self.act3 = nn.Linear(400, 120), nn.ReLU()
        self.fc2, self.act4 = nn.Linear(120, 84), nn.ReLU(inplace=True)
        self.fc3 = nn.Linear(84, 10)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.act1(self.conv1(x)))
        x = self.pool(self.act2(self.conv2(x))).flatten(1)
        return self.fc3(self.act4(self.fc2(self.act3(self.fc1(x)))))


def head(layer: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    width = layer(torch.zeros(2, *shape)).flatten(1).shape[1]
    return nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.Linear(width, 5))


PADDING, VOCABULARY, CLASSES = 0, 50, 4
SHARED = {"vocab_size": VOCABULARY, "num_labels": CLASSES, "pad_token_id": PADDING}


class Classifier(nn.Module):
    """`TextClassifier` without cutting off columns of padding, so that these go through the network."""

    def __init__(self, network: nn.Module, padding: int = PADDING) -> None:
        super().__init__()
        self.network, self.padding = network, padding

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = (tokens != PADDING).long() if attention_mask is None else attention_mask.clone()
        mask[:, 0] = 1
        return self.network(input_ids=tokens, attention_mask=mask).logits


def gpt(**changed: object) -> nn.Module:
    config = transformers.OpenAIGPTConfig(n_positions=24, n_embd=16, n_layer=2, n_head=2, **SHARED, **changed)
    return transformers.OpenAIGPTForSequenceClassification(config)


def gpt2(**changed: object) -> nn.Module:
    ends = {"bos_token_id": 1, "eos_token_id": 1}
    config = transformers.GPT2Config(n_positions=24, n_embd=16, n_layer=2, n_head=2, **SHARED, **ends, **changed)
    return transformers.GPT2ForSequenceClassification(config)


def bert(**changed: object) -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(max_position_embeddings=24, **sizes, **SHARED, **changed)
    return transformers.BertForSequenceClassification(config)


def distilbert(**changed: object) -> nn.Module:
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    config = transformers.DistilBertConfig(max_position_embeddings=24, **sizes, **SHARED, **changed)
    return transformers.DistilBertForSequenceClassification(config)


# Each with the pattern of its layers that an activation function follows, and where that function is.
ARCHITECTURES: dict[str, tuple[Callable[..., nn.Module], dict[str, str]]] = {
    "gpt": (gpt, {"mlp.c_fc": "mlp.act"}),
    "gpt2": (gpt2, {"mlp.c_fc": "mlp.act"}),
    "bert": (bert, {"intermediate.dense": "intermediate.intermediate_act_fn", "pooler.dense": "pooler.activation"}),
    "distilbert": (distilbert, {"ffn.lin1": "ffn.activation", "pre_classifier": "pre_classifier"}),
}


def classifier(name: str, dtype: torch.dtype = torch.float64, **changed: object) -> nn.Module:
    torch.manual_seed(0)
    return Classifier(ARCHITECTURES[name][0](**changed)).to(dtype).eval()


def texts(lengths: tuple[int, ...] = (9, 5, 1, 7), width: int | None = None, seed: int = 1) -> Tensor:
    """Random tokens of these lengths, padded on the right to `width` (None: to the longest)."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((len(lengths), width or max(lengths)), PADDING)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = torch.randint(1, VOCABULARY, (length,), generator=generator)
    return tokens
