"""The model of a recorded federation: built by the user's function or class, by its name, or by transformers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..bounded import read_json
from ..config.schema import Model
from ..config.validate import model_option
from ..coverage import printable
from ..data.checkpoint import has_weights, resolve
from ..data.federated import Form, Pictures
from ..errors import InputError, brief
from ..imports import later
from ..models.build import build
from ..models.network import from_folder, quiet
from ..models.text import KIND
from ..provenance.outputs import Inputs
from .called import called_model

if TYPE_CHECKING:
    import transformers
else:
    transformers = later("transformers")

HUGGING_FACE, ADAPTER = "hf:", "peft:"


def built(spec: str, weights: Mapping[str, Tensor], labels: Sequence[str]) -> nn.Module | None:
    """The module that `spec` names; None of a name in `conf/model`, which is built to the inputs (`named`).

    Args:
        spec: MODULE:NAME of a function, a class that needs no arguments (a LightningModule, say) or a module; or
            `hf:FOLDER_OR_ID`, `peft:FOLDER`.
        weights: the global tensors of a round: they say how many classes there are.
        labels: names of the classes, where they are known.

    Raises:
        InputError: it names nothing of that kind.
    """
    if spec.startswith(HUGGING_FACE):
        return _published(spec, spec.removeprefix(HUGGING_FACE), weights, labels)
    if spec.startswith(ADAPTER):
        return _adapted(spec, Path(spec.removeprefix(ADAPTER)).expanduser(), weights, labels)
    if ":" not in spec:
        return None
    return called_model(spec)


def named(spec: str, inputs: Inputs, weights: Mapping[str, Tensor], labels: Sequence[str]) -> tuple[nn.Module, Form]:
    """A model of `conf/model` for these pictures, and what it reads."""
    option = model_option(spec)
    if option.input != "image" or not isinstance(inputs, Tensor) or inputs.dim() != 4:
        shapes = list(inputs.shape) if isinstance(inputs, Tensor) else ", ".join(map(printable, inputs))
        raise InputError(
            f"--model {spec}: models by name are for pictures [n, channels, height, width], --data holds "
            f"{shapes}: --model MODULE:FUNCTION"
        )
    form = Pictures(inputs.shape[1], inputs.shape[2])
    # The last tensor whose size follows from the number of classes is the logits' bias.
    two, three = (build(option, form, classes, 0).state_dict() for classes in (2, 3))
    classes = len(labels) or _classes(two, three, weights) or 2
    return build(option, form, classes, 0), form


def _classes(two: Mapping[str, Tensor], three: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> int | None:
    """How many classes the recorded weights are for, by the models of two and of three classes; None: not to be told.

    The last tensor whose size follows from the number of classes is the logits'; wrappers put something before names.
    """
    for name in reversed([name for name in two if two[name].shape != three[name].shape]):
        stored = _held(name, weights)
        if stored is not None and weights[stored].dim():
            return int(weights[stored].shape[0])
    return None


def _held(name: str, weights: Mapping[str, Tensor]) -> str | None:
    """The recorded name of a model's tensor, whatever a wrapper put before it."""
    if name in weights:
        return name
    return next((stored for stored in weights if stored.endswith(f".{name}")), None)


def _published(spec: str, where: str, weights: Mapping[str, Tensor], labels: Sequence[str]) -> nn.Module:
    """transformers' network for classifying sequences in a folder, or of the hub where that can be reached.

    Weights in it are read from safetensors alone; those that the rounds hold need not be in it.
    """
    folder = _folder(spec, where)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            settings = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise InputError(
                f"--model {spec}: no config.json of an architecture that transformers has ({brief(error)})"
            ) from error
        try:
            network, drawn = _network(settings, folder, weights, labels)
        except Exception as error:  # whatever an architecture makes of its settings, or a broken file
            raise InputError(
                f"--model {spec}: transformers does not build a sequence classifier of it ({brief(error)})"
            ) from error
    lacking = sorted(name for name in drawn if _held(name, weights) is None)
    if lacking:
        raise InputError(
            f"--model {spec}: has no weights (*.safetensors) for {printable(lacking[0])}"
            f"{f' and {len(lacking) - 1} more' if len(lacking) > 1 else ''}, and the rounds do not hold them either: "
            "give the folder that the clients started from"
        )
    return network


def _network(
    settings: Any, folder: Path, weights: Mapping[str, Tensor], labels: Sequence[str]
) -> tuple[nn.Module, set[str]]:
    """A network with as many classes as were recorded, and the names of its tensors that the folder has not."""
    factory = transformers.AutoModelForSequenceClassification
    empty = []
    for count in (2, 3):
        counted = copy.deepcopy(settings)
        counted.num_labels = count
        with torch.device("meta"):
            empty.append(factory.from_config(counted, trust_remote_code=False).state_dict())
    recorded = _classes(empty[0], empty[1], weights) or len(labels)
    if recorded and recorded != settings.num_labels:
        settings.num_labels = recorded
    settings.return_dict, settings.use_cache = True, False
    if not has_weights(folder):
        network = factory.from_config(settings, dtype=torch.float32, trust_remote_code=False)
        return network, set(network.state_dict())
    network, loading = from_folder(KIND, folder, settings)
    return network, {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}


def _folder(spec: str, where: str) -> Path:
    """A folder of the user's, or that of a hub's model: its cache, or the hub where it can be reached."""
    local = Path(where).expanduser()
    if local.is_dir():
        return local
    if not where or where.startswith((".", "/", "~")) or where.count("/") > 1:
        raise InputError(f"--model {spec}: no such folder")
    try:
        files = resolve(
            Model(target="", name="hf", input="text", checkpoint=where, pretrained="auto", tokenizer="trained")
        )
    except InputError as error:
        raise InputError(f"--model {spec}: {str(error).removeprefix(f'model.checkpoint={where}: ')}") from error
    if files.folder is None:
        raise InputError(
            f"--model {spec}: no such folder, and the hub's model of that name is not to be had "
            f"({(files.line or '').rpartition(': ')[2]}): give the folder that holds it"
        )
    return files.folder


def _adapted(spec: str, folder: Path, weights: Mapping[str, Tensor], labels: Sequence[str]) -> nn.Module:
    """A network with the adapters that PEFT's `adapter_config.json` in a folder describes, by its rank and scale."""
    try:
        import peft
    except ImportError:
        raise InputError(f"--model {spec}: needs PEFT: pip install peft") from None
    try:
        described = read_json(folder / "adapter_config.json")
        base = described["base_model_name_or_path"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"--model {spec}: no adapter_config.json in it that names the base model (base_model_name_or_path), as "
            "PEFT's save_pretrained writes it"
        ) from error
    if not isinstance(base, str) or not base:
        raise InputError(f"--model {spec}: adapter_config.json names no base model: --model MODULE:FUNCTION")
    beside = folder / base
    network = _published(f"{spec}, base {base}", str(beside if beside.is_dir() else base), weights, labels)
    try:
        settings = peft.PeftConfig.from_pretrained(str(folder))
        with quiet():
            if (folder / "adapter_model.safetensors").is_file():
                model: nn.Module = peft.PeftModel.from_pretrained(network, str(folder), config=settings)
            else:
                model = peft.get_peft_model(network, settings)
            return model
    except Exception as error:  # of the library: a field that it does not know, modules that the base has not
        raise InputError(f"--model {spec}: PEFT does not build it ({brief(error)})") from error
