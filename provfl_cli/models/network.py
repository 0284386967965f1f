"""Networks of `transformers` of one kind, such as text classifiers: found, built from settings or from a folder."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

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


@dataclass(frozen=True)
class Kind:
    """What a network is for: the table in which transformers lists those architectures, its class for any of them.

    `words` is what such a network is called in messages; `new_head`: whether what is behind the body may be drawn anew
    beside published weights.
    """

    table: str
    maker: str
    words: str
    new_head: bool = False

    @property
    def known(self) -> Mapping[str, Any]:
        """The architectures that there are, by transformers' names of them."""
        table: Mapping[str, Any] = getattr(transformers.models.auto.modeling_auto, self.table)
        return table

    @property
    def networks(self) -> Any:
        """Transformers' class that makes such a network of any architecture."""
        return getattr(transformers, self.maker)


def network_settings(model: nn.Module) -> dict[str, Any] | None:
    """The architecture of a network of transformers as plain values, to build it again; None of other models.

    `architecture` and `config` are options of `sequence_classifier` and `causal_lm`.
    """
    settings = getattr(getattr(model, "network", None), "config", None)
    return None if settings is None or not hasattr(settings, "model_type") else _plain(settings)


def published_settings(kind: Kind, folder: Path) -> dict[str, Any]:
    """The same of the published network in a folder, by its `config.json` alone.

    Raises:
        InputError: there is none, or none of a known architecture.
    """
    with quiet():
        return _plain(settings_for(kind, str(folder), None, {}))


def _plain(settings: Any) -> dict[str, Any]:
    """What an architecture has of its own among its settings: nothing that names code or files."""
    known = transformers.AutoConfig.for_model(settings.model_type).to_dict()
    fields = {name: value for name, value in settings.to_dict().items() if name in known and name not in ASIDE}
    return {"architecture": settings.model_type, "config": json.loads(json.dumps(fields))}


def settings_for(kind: Kind, checkpoint: str | None, architecture: str | None, changes: dict[str, Any]) -> Any:
    """The configuration of the checkpoint, or the default one of the architecture, with `changes` made."""
    if checkpoint is None and not architecture:
        raise InputError(
            "model.architecture is missing: weights from the seed need model.architecture=bert or another; published "
            "ones bring it along (model.checkpoint=HUB_ID or a folder, model.pretrained=true)"
        )
    known = kind.known
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
                f"model.checkpoint={checkpoint}: no config.json of a known architecture in it ({reason(error)})"
            ) from error
        if architecture is not None and settings.model_type != architecture:
            raise InputError(
                f"model.checkpoint={checkpoint}: is {settings.model_type}, not {architecture}: "
                "model=hf takes any architecture, or choose another checkpoint"
            )
        if settings.model_type not in known:
            raise InputError(
                f"model.checkpoint={checkpoint}: transformers has no {kind.words} for {settings.model_type}"
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
        raise InputError(f"model.config={changes}: {reason(error)}") from error
    return settings


def from_folder(kind: Kind, folder: Path, settings: Any) -> tuple[Any, Mapping[str, Any]]:
    """A network with the weights of a local folder, and what transformers says of those that do not fit."""
    network, loading = kind.networks.from_pretrained(
        folder,
        config=settings,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    return _experts_in_turn(network), loading


def from_settings(kind: Kind, settings: Any) -> Any:
    """A network with weights as its architecture draws them."""
    return _experts_in_turn(kind.networks.from_config(settings, dtype=torch.float32, trust_remote_code=False))


def _experts_in_turn(network: Any) -> Any:
    """The same with the experts of a mixture computed one after the other, each by matrix products of its own.

    Transformers' function for all of them at once knows no float64, and conservation cannot be checked in it.
    """
    switch = getattr(network, "set_experts_implementation", None)
    if switch is not None:
        switch("eager")
    return network


def network_of(kind: Kind, settings: Any, checkpoint: str | None, vocabulary: int, padding: int) -> Any:
    """The network of `settings` with published weights, the folder `checkpoint`, or drawn ones, None.

    Raises:
        InputError: it cannot be built of them, or the folder holds other weights.
    """
    try:
        if checkpoint is None:
            return drawn(kind, settings, vocabulary, padding)
        return published(kind, settings, checkpoint, vocabulary, padding)
    except InputError:
        raise
    except Exception as error:  # whatever an architecture makes of its settings, or a broken file
        where = "model.config" if checkpoint is None else f"model.checkpoint={checkpoint}"
        raise InputError(f"{where}: {settings.model_type} cannot be built from it ({reason(error)})") from error


def drawn(kind: Kind, settings: Any, vocabulary: int, padding: int) -> Any:
    """The same, of a vocabulary and a padding."""
    settings.vocab_size, settings.pad_token_id = vocabulary, padding
    return from_settings(kind, settings)


def published(kind: Kind, settings: Any, checkpoint: str, vocabulary: int, padding: int) -> Any:
    """A network with the weights in the folder `checkpoint`, but for a head of another number of classes."""
    if not any(Path(checkpoint).glob("*.safetensors")):
        raise InputError(f"model.checkpoint={checkpoint}: no weights in it (*.safetensors); or model.pretrained=false")
    network, loading = from_folder(kind, Path(checkpoint), settings)
    # Transformers draws whatever does not fit; that is meant for the head alone. A pooler is a head in all but name:
    # checkpoints trained on masked words have none.
    body = f"{network.base_model_prefix}."
    differing = [key for key, *_ in loading["mismatched_keys"]]
    lacking = sorted(
        name
        for name in {*loading["missing_keys"], *differing}
        if not kind.new_head or (name.startswith(body) and "pooler" not in name)
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


def takes(network: Any, name: str) -> bool:
    """Whether a network of transformers, within PEFT's wrapper or not, takes an argument of that name."""
    own = network.get_base_model() if hasattr(network, "get_base_model") else network
    return name in inspect.signature(own.forward).parameters


def check_positions(network: Any, max_tokens: int) -> None:
    """Raise InputError where texts may be longer than the network has positions for."""
    most = most_positions(network)
    if most is not None and max_tokens > most:
        raise InputError(
            f"dataset.max_tokens={max_tokens}: {network.config.model_type} has positions for {most} tokens: "
            f"dataset.max_tokens={most} or less"
        )


def reason(error: Exception) -> str:
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
