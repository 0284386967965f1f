"""The folder of a run that is still at work, opened to look at the rounds that it has written.

It has no manifest yet: data and model are made again from its configuration, as the run itself made them.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ..bounded import read_json
from ..config.schema import Config, Dataset
from ..config.stored_config import HYDRA, stored_config
from ..config.targets import working_folder_searched
from ..data.federated import Dialogues, Texts
from ..data.load import federated_data, test_set
from ..data.picture_facts import PictureFacts
from ..data.tokenizer import from_json
from ..errors import InputError
from ..federation.sharing import sharing_of
from ..models.build import build
from ..results.links import refuse_links, refuse_links_of_rounds
from .device import device_like
from .inputs import RunInputs
from .open_run import OpenFederation
from .place import no_run
from .private_part import load_base
from .rebuild import data_again

NOT_ENDED = "the run has not ended"


@dataclass(frozen=True)
class UnfinishedInputs(RunInputs):
    """Inputs of a run whose tokenizer is not in its folder yet."""

    tokenizer: str | None = None

    def _tokens(self, form: Texts, texts: np.ndarray) -> Tensor:
        return super()._tokens(form, texts) if self.tokenizer is None else from_json(self.tokenizer)(texts)


def open_unfinished(folder: Path, trust: bool = False, data: str | None = None) -> OpenFederation:
    """Open the folder of a run at work, which has linked its rounds already.

    Args:
        folder: of the run.
        trust: whether it is the user's own: what its configuration names, functions, paths and checkpoints, is used.
        data: where its data are, a folder, a file or a hub id; None: where the configuration says, if that is certain.

    Raises:
        InputError: it is no run, or names what may not be used.
    """
    if not (folder / HYDRA / "config.yaml").is_file():
        raise InputError(no_run(folder))
    refuse_links(folder)
    refuse_links_of_rounds(folder)
    with working_folder_searched() if trust else nullcontext():
        config = stored_config(folder, trust).config
        entry = (folder / "rounds").resolve().parent
        if not trust and (config.model.checkpoint is not None or config.model.pretrained is True):
            raise InputError(f"{folder}: {NOT_ENDED}, and its model started from files that it names: --trust")
        dataset = config.dataset if trust and data is None else _dataset(config.dataset, entry, data)
        config = replace(config, dataset=dataset)
        held = federated_data(config)
        model = build(config.model, held.form, len(held.label_names), config.seed, config.lora)
        sharing = sharing_of(model, config.federation, config.model.adapter)
        load_base(folder, model, sharing)
    if isinstance(held.form, Dialogues):
        raise InputError(f"{folder}: its model answers prompts: --updates watches what clients send alone")
    inputs = UnfinishedInputs(
        folder,
        dataset,
        lambda again: test_set(replace(config, dataset=again)),
        held.form,
        held.label_names,
        held.source.fingerprint,
        held.pictures or PictureFacts(),
        held.source.indexed,
        data or (str(dataset.path or dataset.hub_id or "") or None if trust else None),
        held.tokenizer,
    )
    return OpenFederation(
        folder=folder,
        model=model,
        form=held.form,
        inputs=inputs,
        label_names=held.label_names,
        client_names={},
        examples={client.id: len(client.labels) for client in held.clients},
        label_counts={},
        faulty=(),
        provenance=config.provenance,
        rivals=(),
        rounds_traced=(),
        fusion=config.fusion,
        privacy=config.privacy,
        seed=config.seed,
        device=device_like(config.device),
        settings=config.run_settings,
        key=entry.name,
        sharing=sharing,
        traced=config.evaluation.client,
        config=config,
    )


def config_of(folder: Path, trust: bool = False) -> Config:
    """The configuration of a run, ended or not; errors as of `open_unfinished`."""
    with working_folder_searched() if trust else nullcontext():
        return stored_config(folder, trust).config


def _dataset(dataset: Dataset, entry: Path, data: str | None) -> Dataset:
    """Where to read the data of a run whose rounds are in this entry of a training cache."""
    try:
        fingerprint = str(read_json(entry / "training.json")["came from"]["source"]["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        fingerprint = ""
    return data_again(dataset, fingerprint, data, NOT_ENDED)
