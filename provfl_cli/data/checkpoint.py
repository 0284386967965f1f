"""The published files, weights and tokenizer, that a text model starts from (`model.checkpoint`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub

from ..config.schema import Model
from ..errors import InputError
from .network import hub_endpoint, reachable

# Nothing that is unpickled on loading is ever asked for.
WEIGHT_FILES = ("model*.safetensors", "model.safetensors.index.json")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")  # one of them is enough to make a tokenizer
OTHER_FILES = (
    "config.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Published:
    """The folder with the published files, None where none are wanted or to be had, and what is taken from there.

    `line` is a sentence for the user where something was wanted and is not there.
    """

    folder: Path | None = None
    weights: bool = False
    line: str | None = None


def resolve(model: Model) -> Published:
    """Find the files of `model.checkpoint`: a local folder, the hub's cache, or the hub itself, in this order.

    `model.pretrained` true: weights must be had; auto: they are taken where they can be had, with a line where not;
    false: none are wanted. A tokenizer is looked for with them, and where `model.tokenizer` is own it must be had.

    Raises:
        InputError: what must be had is not to be had (within seconds without a network), or no such folder or hub id.
    """
    wanted = model.pretrained is not False
    if model.checkpoint is None or not (wanted or model.tokenizer == "own"):
        return Published()
    folder, reason = _folder(model)
    weights = wanted and folder is not None and has_weights(folder)
    if wanted and folder is not None and not weights:
        reason = f"{folder} holds no model.safetensors (other formats are not read)"
    if model.pretrained is True and not weights:
        raise InputError(
            f"model={model.name}: no published weights: {reason}: model.checkpoint=DIR (a folder with them), "
            "HF_HOME=DIR (a filled cache), or model.pretrained=auto or false (weights drawn from the seed)"
        )
    if model.tokenizer == "own" and (folder is None or not has_tokenizer(folder)):
        reason = reason if folder is None else f"none of {', '.join(TOKENIZER_FILES)} in {folder}"
        raise InputError(
            f"model.tokenizer=own: no published tokenizer: {reason}: model.checkpoint=DIR (a folder with one), "
            "HF_HOME=DIR (a filled cache), or model.tokenizer=trained model.pretrained=false"
        )
    line = None if weights or not wanted else f"weights are drawn from the seed, not the published ones: {reason}"
    return Published(folder, weights, line)


def config_folder(checkpoint: str, revision: str | None, online: bool = False) -> Path:
    """The folder that holds the `config.json` of a checkpoint, its weights left where they are.

    Args:
        checkpoint: a hub id, of which the hub's cache on this machine is looked through; where `online` also a folder.
        revision: of the hub; None: main.
        online: whether the hub may be asked.

    Raises:
        InputError: it is not to be had.
    """
    local = Path(checkpoint).expanduser()
    if online and local.is_dir():
        return local.resolve()
    try:
        if online and reachable(hub_endpoint()):
            path: Any = huggingface_hub.hf_hub_download(checkpoint, "config.json", revision=revision)
        else:
            path = huggingface_hub.try_to_load_from_cache(checkpoint, "config.json", revision=revision)
        if not isinstance(path, str):  # not cached, or known not to be there
            raise FileNotFoundError(checkpoint)
    except Exception as error:  # of the library, its HTTP client, the disk: in one of several ways it is not there
        raise InputError(f"{checkpoint}: no such folder, and its config.json is not to be had from the hub") from error
    return Path(path).parent


def has_weights(folder: Path) -> bool:
    """Whether a folder holds all weights as safetensors, in one file or in shards."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return (folder / "model.safetensors").is_file()
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(shards) and all((folder / shard).is_file() for shard in shards)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds what a tokenizer is made of."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def _folder(model: Model) -> tuple[Path | None, str]:
    """The folder of the files, or None and why there is none."""
    checkpoint = str(model.checkpoint)
    local = Path(checkpoint).expanduser()
    if local.is_dir():
        return local.resolve(), ""
    if checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1:
        raise InputError(f"model.checkpoint={checkpoint}: no such folder")
    cached = _snapshot(model, online=False)
    if cached is not None and _complete(cached, model):
        return cached, ""
    endpoint = hub_endpoint()
    if huggingface_hub.constants.HF_HUB_OFFLINE or not reachable(endpoint):
        if cached is not None:
            return cached, ""
        return None, f"{endpoint} cannot be reached and {checkpoint} is not in the Hugging Face cache"
    try:
        return _snapshot(model, online=True), ""
    except (huggingface_hub.errors.RepositoryNotFoundError, huggingface_hub.errors.HFValidationError):
        raise InputError(f"model.checkpoint={checkpoint}: no such folder, and no such model on {endpoint}") from None
    except huggingface_hub.errors.RevisionNotFoundError:
        raise InputError(f"model.revision={model.revision}: {checkpoint} has none of that name") from None
    except Exception as error:  # of the library, its HTTP client, the disk
        return cached, f"{endpoint} fails ({str(error).strip().partition(chr(10))[0]})"


def _snapshot(model: Model, online: bool) -> Path | None:
    """The folder in the hub's cache, its files fetched first where `online`; None where it is not cached."""
    weights = WEIGHT_FILES if model.pretrained is not False else ()
    try:
        return Path(
            huggingface_hub.snapshot_download(
                str(model.checkpoint),
                revision=model.revision,
                allow_patterns=[*weights, *TOKENIZER_FILES, *OTHER_FILES],
                local_files_only=not online,
            )
        )
    except Exception:  # not cached, in one of several ways
        if online:
            raise
        return None


def _complete(folder: Path, model: Model) -> bool:
    """Whether a cached folder holds all that is wanted, so that the hub need not be asked."""
    return (
        (folder / "config.json").is_file()
        and (model.pretrained is False or has_weights(folder))
        and (model.tokenizer == "trained" or has_tokenizer(folder))
    )
