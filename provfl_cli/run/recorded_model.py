"""The model of a recorded federation: built by the user's function or class, by its name, or by transformers."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
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
from ..fusion.adapters import FIRST, SECOND
from ..imports import later
from ..models.build import build
from ..models.causal import KIND as LANGUAGE
from ..models.network import Kind, from_folder, from_settings, quiet
from ..models.text import KIND
from ..provenance.outputs import Inputs
from .called import called_model

if TYPE_CHECKING:
    import transformers
else:
    transformers = later("transformers")

HUGGING_FACE, ADAPTER = "hf:", "peft:"
CONFIG = "adapter_config.json"


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


def language_network(spec: str, weights: Mapping[str, Tensor]) -> tuple[nn.Module, tuple[Path, ...]]:
    """The causal language model that `hf:FOLDER_OR_ID` or `peft:FOLDER` names, and where its tokenizer may lie.

    Adapters that the rounds hold are those of an `adapter_config.json` in the folder, which says their rank and scale.

    Args:
        spec: as above.
        weights: the global tensors of a round.

    Raises:
        InputError: there is none, or the rounds hold adapters and nothing says their scale.
    """
    kind, _, where = spec.partition(":")
    local = Path(where).expanduser()
    adapters = [name for name in weights if not {FIRST, SECOND}.isdisjoint(name.split("."))]
    if f"{kind}:" == ADAPTER or (local / CONFIG).is_file():
        base = _base(spec, local)
        return _adapted(spec, local, weights, (), LANGUAGE), (local, Path(base)) if Path(base).is_dir() else (local,)
    if adapters:
        raise InputError(
            f"--model {spec}: the rounds hold adapters ({printable(adapters[0])}), and without the {CONFIG} that "
            "PEFT's save_pretrained writes nobody knows their scale: put it into that folder, or --model peft:FOLDER"
        )
    folder = _folder(spec, where)
    return _published(spec, where, weights, (), LANGUAGE), (folder,)


def most_tokens(network: Any) -> int:
    """How many tokens a network of transformers tells apart."""
    return int(network.get_input_embeddings().num_embeddings)


def _base(spec: str, folder: Path) -> str:
    """The base model of an adapter's folder: the folder itself, where that holds one, or what its file names."""
    if (folder / "config.json").is_file() and (folder / CONFIG).is_file():
        return str(folder)
    try:
        base = read_json(folder / CONFIG)["base_model_name_or_path"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"--model {spec}: no {CONFIG} in it that names the base model (base_model_name_or_path), as PEFT's "
            "save_pretrained writes it"
        ) from error
    if not isinstance(base, str) or not base:
        raise InputError(f"--model {spec}: {CONFIG} names no base model: --model MODULE:FUNCTION")
    beside = folder / base
    return str(beside if beside.is_dir() else base)


def _published(
    spec: str, where: str, weights: Mapping[str, Tensor], labels: Sequence[str], kind: Kind = KIND
) -> nn.Module:
    """transformers' network of that kind in a folder, or of the hub where that can be reached.

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
            make = _language_network if kind is LANGUAGE else partial(_network, labels=labels)
            network, drawn = make(settings, folder, weights)
        except Exception as error:  # whatever an architecture makes of its settings, or a broken file
            raise InputError(
                f"--model {spec}: transformers does not build a {kind.words} of it ({brief(error)})"
            ) from error
    tied = _tied(network)
    lacking = sorted(name for name in drawn if not any(_held(other, weights) for other in tied.get(name, (name,))))
    if lacking:
        raise InputError(
            f"--model {spec}: has no weights (*.safetensors) for {printable(lacking[0])}"
            f"{f' and {len(lacking) - 1} more' if len(lacking) > 1 else ''}, and the rounds do not hold them either: "
            "give the folder that the clients started from"
        )
    return network


@contextmanager
def _without_adapters(folder: Path) -> Iterator[Path]:
    """The folder, as transformers would not read it as one of adapters: these come from the rounds."""
    if not (folder / CONFIG).is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory() as bare:
        for file in (folder / "config.json", *folder.glob("model*.safetensors*")):
            (Path(bare) / file.name).symlink_to(file.resolve())
        yield Path(bare)


def _tied(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """All names of each tensor that has several."""
    names = dict[int, list[str]]()
    for name, tensor in network.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return {name: tuple(group) for group in names.values() for name in group if len(group) > 1}


def _language_network(settings: Any, folder: Path, weights: Mapping[str, Tensor]) -> tuple[nn.Module, set[str]]:
    """A causal language model with embeddings for as many tokens as were recorded, and its names as of `_network`."""
    settings.return_dict = True
    if has_weights(folder):
        with _without_adapters(folder) as bare:
            network, loading = from_folder(LANGUAGE, bare, settings)
        drawn = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    else:
        network = from_settings(LANGUAGE, settings)
        drawn = set(network.state_dict())
    embeddings = network.get_input_embeddings()
    own = next(name for name, module in network.named_modules() if module is embeddings)
    stored = _held(f"{own}.weight", weights)
    if stored is not None and len(weights[stored]) != embeddings.num_embeddings:
        network.resize_token_embeddings(len(weights[stored]), mean_resizing=False)
    return network, drawn


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
        network = from_settings(KIND, settings)
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


def _adapted(
    spec: str, folder: Path, weights: Mapping[str, Tensor], labels: Sequence[str], kind: Kind = KIND
) -> nn.Module:
    """A network with the adapters that PEFT's `adapter_config.json` in a folder describes, by its rank and scale."""
    try:
        import peft
    except ImportError:
        raise InputError(f"--model {spec}: needs PEFT: pip install peft") from None
    base = _base(spec, folder)
    network = _published(f"{spec}, base {base}", base, weights, labels, kind)
    try:
        settings = peft.PeftConfig.from_pretrained(str(folder))
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries about each other
            if (folder / "adapter_model.safetensors").is_file():
                model: nn.Module = peft.PeftModel.from_pretrained(network, str(folder), config=settings)
            else:
                model = peft.get_peft_model(network, settings)
            return model
    except Exception as error:  # of the library: a field that it does not know, modules that the base has not
        raise InputError(f"--model {spec}: PEFT does not build it ({brief(error)})") from error
