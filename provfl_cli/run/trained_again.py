"""A run's federation made ready to train again: its configuration, its clients' data, the cache with its rounds."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from ..config.schema import Config, Store
from ..data.federated import FederatedData
from ..data.load import federated_data
from ..data.network import without_network
from ..errors import InputError
from ..store.cache import lock_kind
from .inputs import RunInputs
from .open_run import OpenFederation
from .rebuild import data_again

PLENTY = 1e6  # GB of a training cache: nothing of it is pruned for an answer


def federation_again(
    opened: OpenFederation, flag: str, instead: str, from_the_beginning: bool = True
) -> tuple[Config, FederatedData]:
    """The run's configuration and its data, dealt to clients as they were.

    Args:
        opened: a run.
        flag: what asks for it, as an error message begins.
        instead: what to type where it cannot be had.
        from_the_beginning: whether it is trained from its initial model, which has to be at hand then.

    Raises:
        InputError: it is no run, or its data or initial model are not at hand.
    """
    config, inputs = opened.config, opened.inputs
    if config is None or not isinstance(inputs, RunInputs):
        raise InputError(f"{flag}: how a recorded federation was trained is not known here: {instead.split(',')[0]}")
    if opened.published and from_the_beginning:
        raise InputError(f"{flag}: the run started from published weights, which its folder does not hold: {instead}")
    dataset = data_again(config.dataset, inputs.fingerprint, inputs.data, f"{flag}: it needs the clients' data")
    config = replace(config, dataset=dataset, store=_store(opened.folder))
    with without_network() if inputs.data is None else nullcontext():
        data = federated_data(config)
    if data.source.fingerprint != inputs.fingerprint or data.form != opened.form:
        raise InputError(
            f"{flag}: the dataset is not what it was when the run was made ({data.source.location}): "
            "--data DIR, where the data are now"
        )
    return config, data


def _store(folder: Path) -> Store:
    """The training cache that holds the run's rounds; where they lie in none, the one of who asks."""
    entry = (folder / "rounds").resolve().parent
    home = entry.parent
    if home.name != "federations" or not (entry / "leases").is_dir():
        home = Path(os.environ.get("PROVFL_CACHE", "outputs/cache")).absolute() / "federations"
    return Store(str(home.parent), "last", PLENTY, lock_kind(home))
