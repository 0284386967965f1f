"""What a run was made of and its folder does not hold, found again: its data, the architecture of its model.

A path or a hub id that stands in a run's folder alone is neither read nor asked for: somebody else may have written it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..bounded import read_json
from ..checks import excerpt
from ..config import tree
from ..config.builtin import written_default
from ..config.schema import Dataset, Model
from ..data.checkpoint import config_folder
from ..data.network import without_network
from ..errors import InputError
from ..models import causal, text
from ..models.network import published_settings

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
SAME = ("source", "path", "hub_id", "revision", "medmnist")  # fields that say where data come from


NOT_TRACED = "--input: the run has not traced it"


def data_again(dataset: Dataset, fingerprint: str, named: str | None, why: str = NOT_TRACED) -> Dataset:
    """Where to read a run's data now; whether they are still the same, their fingerprint tells when they are read.

    Args:
        dataset: of the run's configuration.
        fingerprint: of the data, as the run recorded it.
        named: a folder, a file or a hub id that the user gave; None: nothing.
        why: what they are needed for, as an error message begins.

    Raises:
        InputError: only the run's folder says where they are.
    """
    if named is not None:
        path = Path(named).expanduser()
        if path.exists():
            return replace(dataset, path=str(path.resolve()))
        check_named(named)
        revision = dataset.revision if named == dataset.hub_id else "main"
        return replace(dataset, source="hub", path=None, hub_id=named, revision=revision)
    if dataset.source in ("embedded", "medmnist") or _of_tree(dataset) or _trained_on_here(dataset, fingerprint):
        return dataset
    where = excerpt(dataset.path if dataset.source == "path" else dataset.hub_id, 200)
    other = ", or give an input that it traced (inputs.parquet)" if why == NOT_TRACED else ""
    raise InputError(
        f"{why}, and where its data are, only the run's folder says ({where}): "
        f"if they are yours, --data DIR (or --data HUB_ID){other}"
    )


def check_named(data: str) -> None:
    """Raise InputError where `--data` is neither there nor what an id on the hub may be."""
    if not Path(data).expanduser().exists() and not HUB_ID.fullmatch(data):
        raise InputError(f"--data {data}: no such folder or file")


def model_again(model: Model, network: Any, published: bool, named: str | None) -> Model:
    """The model of a run that started from published files, as one that is built without them.

    The architecture is what the user names, what the run recorded, what lies in the hub's cache on this machine, or
    that of a checkpoint of the built-in tree, in this order. No server is asked but for what the user names.

    Args:
        model: of the run's configuration.
        network: what the run's manifest holds of the architecture, None in those of former versions.
        published: whether it started from published weights.
        named: a folder or a hub id that the user gave (`--checkpoint`); None: nothing.

    Raises:
        InputError: the architecture is not known.
    """
    options = dict(model.options)
    if isinstance(options.get("config"), Mapping):  # none of what transformers keeps for itself, such as names of files
        options["config"] = {key: value for key, value in options["config"].items() if not str(key).startswith("_")}
    bare = replace(model, checkpoint=None, pretrained=False, tokenizer="auto", options=options)
    if model.input == "image" or not (published or named is not None):
        return bare
    changes = bare.options.get("config") or {}
    kind = text.KIND if model.input == "text" else causal.KIND
    if named is not None:
        return _with(bare, published_settings(kind, config_folder(named, None, online=True)), changes)
    if isinstance(network, Mapping):
        fields = network.get("config")
        return _with(bare, {**network, "config": dict(fields) if isinstance(fields, Mapping) else {}}, {})
    if model.checkpoint is not None and HUB_ID.fullmatch(model.checkpoint):
        with without_network():
            try:
                return _with(bare, published_settings(kind, config_folder(model.checkpoint, model.revision)), changes)
            except InputError:
                pass
    if model.options.get("architecture") and _default_architecture(model):
        return bare
    raise InputError(
        f"the model started from {excerpt(model.checkpoint, 200)}, and its architecture is not in the run's folder: "
        "--checkpoint DIR (a folder with its config.json) or --checkpoint HUB_ID"
    )


def _with(model: Model, settings: Mapping[str, Any], changes: Mapping[str, Any]) -> Model:
    fields = {**settings["config"], **changes}
    return replace(
        model, options={**model.options, "architecture": str(settings.get("architecture")), "config": fields}
    )


def _of_tree(dataset: Dataset) -> bool:
    """Whether the built-in tree itself names this dataset of the hub, at this revision."""
    if dataset.source != "hub" or dataset.path is not None:
        return False
    for option in tree.options("dataset"):
        said = [written_default(("dataset", key), {"dataset": option}) for key in ("hub_id", "revision")]
        if said == [dataset.hub_id, dataset.revision]:
            return True
    return False


def _default_architecture(model: Model) -> bool:
    """Whether the tree names this checkpoint for this architecture: those are what transformers takes by default."""
    for option in tree.options("model"):
        said = [written_default(("model", key), {"model": option}) for key in ("checkpoint", "architecture")]
        if said == [model.checkpoint, model.options.get("architecture")]:
            return True
    return False


def _trained_on_here(dataset: Dataset, fingerprint: str) -> bool:
    """Whether the training cache of who asks knows of a federation on data from there with that fingerprint.

    The cache is the one that a run would use where nothing is said, not one that the opened run names.
    """
    own = {key: getattr(dataset, key) for key in SAME}
    home = Path(os.environ.get("PROVFL_CACHE", "outputs/cache")) / "federations"
    for file in home.glob("*/training.json"):
        try:
            came = read_json(file)["came from"]
            known = {key: came["dataset"].get(key) for key in SAME}, came["source"]["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if known == (own, fingerprint):
            return True
    return False
