"""Text classifiers: the sequence-classification networks of `transformers`, from published weights or from the seed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError, did_you_mean
from ..imports import later

if TYPE_CHECKING:
    import transformers
else:
    transformers = later("transformers")

OURS = ("num_labels", "vocab_size", "pad_token_id")  # fields of a network's config that follow from the data
# Of those that say nothing about how it computes: labels, versions, and where it came from.
ASIDE = (
    *OURS, "_name_or_path", "architectures", "dtype", "id2label", "label2id", "model_type", "return_dict",
    "transformers_version", "use_cache",
)  # fmt: skip


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
        settings = _settings(checkpoint, architecture, dict(config or {}))
        settings.num_labels = classes
        # Not what only generation needs, nor tuples instead of named outputs, whatever a published config asks for.
        settings.use_cache, settings.return_dict = False, True
        try:
            if checkpoint is None:
                network = _drawn(settings, vocabulary, padding)
            else:
                network = _published(settings, checkpoint, vocabulary, padding)
        except InputError:
            raise
        except Exception as error:  # whatever an architecture makes of its settings, or a broken file
            where = "model.config" if checkpoint is None else f"model.checkpoint={checkpoint}"
            raise InputError(f"{where}: {settings.model_type} cannot be built from it ({_reason(error)})") from error
        _check_positions(network, max_tokens)
        model = TextClassifier(network, padding)
        _check_padding(model, classes, vocabulary, max_tokens)
    return model


def network_settings(model: nn.Module) -> dict[str, Any] | None:
    """The architecture of a `TextClassifier` as plain values, from which it is built again; None of other models.

    `architecture` and `config` are options of `sequence_classifier`.
    """
    settings = getattr(getattr(model, "network", None), "config", None)
    return None if settings is None or not hasattr(settings, "model_type") else _plain(settings)


def published_settings(folder: Path) -> dict[str, Any]:
    """The same of the published network in a folder, by its `config.json` alone.

    Raises:
        InputError: there is none, or none of a known architecture.
    """
    with quiet():
        return _plain(_settings(str(folder), None, {}))


def _plain(settings: Any) -> dict[str, Any]:
    """What an architecture has of its own among its settings: nothing that names code or files."""
    known = transformers.AutoConfig.for_model(settings.model_type).to_dict()
    fields = {name: value for name, value in settings.to_dict().items() if name in known and name not in ASIDE}
    return {"architecture": settings.model_type, "config": json.loads(json.dumps(fields))}


def _settings(checkpoint: str | None, architecture: str | None, changes: dict[str, Any]) -> Any:
    """The configuration of the checkpoint, or the default one of the architecture, with `changes` made."""
    if checkpoint is None and not architecture:
        raise InputError(
            "model.architecture is missing: weights from the seed need model.architecture=bert or another; published "
            "ones bring it along (model.checkpoint=HUB_ID or a folder, model.pretrained=true)"
        )
    known = transformers.models.auto.modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    if architecture is not None and architecture not in known:
        raise InputError(f"model.architecture={architecture}: {did_you_mean(architecture, known)}")
    if checkpoint is None:
        settings = transformers.AutoConfig.for_model(str(architecture))
    else:
        try:
            settings = transformers.AutoConfig.from_pretrained(
                checkpoint, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"model.checkpoint={checkpoint}: no config.json of a known architecture in it ({_reason(error)})"
            ) from error
        if architecture is not None and settings.model_type != architecture:
            raise InputError(
                f"model.checkpoint={checkpoint}: is {settings.model_type}, not {architecture}: "
                "model=hf takes any architecture, or choose another checkpoint"
            )
        if settings.model_type not in known:
            raise InputError(
                f"model.checkpoint={checkpoint}: transformers has no sequence classification for {settings.model_type}"
            )
    fields = sorted({*settings.to_dict(), *settings.attribute_map} - set(OURS))
    for name in changes:
        if name in OURS:
            raise InputError(f"model.config.{name}: follows from the data, leave it out")
        if name not in fields:
            raise InputError(
                f"model.config.{name}: {settings.model_type} has no such field, {did_you_mean(name, fields)}"
            )
    try:
        if checkpoint is None:  # not changed afterwards: fields that follow from others are filled in on the way
            settings = transformers.AutoConfig.for_model(str(architecture), **changes)
        else:
            settings.update(changes)
    except Exception as error:  # transformers checks types and ranges itself, with errors of its own
        raise InputError(f"model.config={changes}: {_reason(error)}") from error
    return settings


def from_folder(folder: Path, settings: Any) -> tuple[Any, Mapping[str, Any]]:
    """A text classifier with the weights of a local folder, and what transformers says of those that do not fit."""
    network, loading = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder,
        config=settings,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    return network, loading


def _drawn(settings: Any, vocabulary: int, padding: int) -> Any:
    """A network with weights as its architecture draws them."""
    settings.vocab_size, settings.pad_token_id = vocabulary, padding
    return transformers.AutoModelForSequenceClassification.from_config(settings, dtype=torch.float32)


def _published(settings: Any, checkpoint: str, vocabulary: int, padding: int) -> Any:
    """A network with the weights in the folder `checkpoint`, but for a head of another number of classes."""
    if not any(Path(checkpoint).glob("*.safetensors")):
        raise InputError(f"model.checkpoint={checkpoint}: no weights in it (*.safetensors); or model.pretrained=false")
    network, loading = from_folder(Path(checkpoint), settings)
    # Transformers draws whatever does not fit; that is meant for the head alone. A pooler is a head in all but name:
    # checkpoints trained on masked words have none.
    body = f"{network.base_model_prefix}."
    differing = [key for key, *_ in loading["mismatched_keys"]]
    lacking = sorted(
        name for name in {*loading["missing_keys"], *differing} if name.startswith(body) and "pooler" not in name
    )
    if lacking:
        raise InputError(
            f"model.checkpoint={checkpoint}: has no weights of that shape for {lacking[0]}"
            + (f" and {len(lacking) - 1} more" if len(lacking) > 1 else "")
            + ": leave model.config out, or model.pretrained=false"
        )
    if network.get_input_embeddings().num_embeddings != vocabulary:
        network.resize_token_embeddings(vocabulary, mean_resizing=False)
    network.config.pad_token_id = padding
    return network


def most_positions(network: Any) -> int | None:
    """How many tokens a network of transformers has positions for; None: any number, or it is not known."""
    most = getattr(network.config, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 0:  # relative positions
        return None
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.num_embeddings - module.padding_idx - 1)  # RoBERTa counts from behind its padding
    return most


def _check_positions(network: Any, max_tokens: int) -> None:
    """Raise InputError where texts may be longer than the network has positions for."""
    most = most_positions(network)
    if most is not None and max_tokens > most:
        raise InputError(
            f"dataset.max_tokens={max_tokens}: {network.config.model_type} has positions for {most} tokens: "
            f"dataset.max_tokens={most} or less"
        )


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
        raise InputError(f"model.architecture={kind}: does not classify plain texts ({_reason(error)})") from error
    finally:
        model.train(training)
    if padded.shape != (classes,) or not torch.allclose(padded, alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max())):
        raise InputError(
            f"model.architecture={kind}: its logits depend on how far a text is padded on the right, which tracing "
            "cannot allow: choose another, such as bert, distilbert, gpt2 or openai-gpt"
        )


def _reason(error: Exception) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Transformers says nothing within: it reports every weight that it draws, and shows bars."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
