"""All that is known before a federation is trained: data, model, who takes part; and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.text import Text
from torch import nn

from ..config.environment import EnvironmentValue, masked
from ..config.schema import Config
from ..data.federated import FederatedData
from ..data.load import check_functions, federated_data
from ..federation.participation import Roster, rosters
from ..federation.sharing import Sharing, sharing_of
from ..federation.warm_start import has_base, initial_model
from ..fusion.privacy import check_model
from ..models.build import build, check_function
from ..provenance.depth import chosen_layers
from ..results.participation import participation_frame
from ..retraining.designs import Retraining
from .checks import check_attackers, check_batches, check_precision, make_cache
from .device import choose_device
from .private_part import check_client, frozen_digest, to_complete
from .retrained import Others, before_training, others_of, plan_of
from .scope import with_scope
from .shown import show_clients, show_header, show_participation


@dataclass(frozen=True)
class Prepared:
    """A federation that can be trained.

    Attributes:
        config: of the run.
        device: where it trains.
        data: of its clients and its server.
        model: the initial global model.
        sharing: what of the model clients share.
        names: of data and model, as they may be written.
        roster: who is to do what in each round.
        frozen: checksum of what nobody trains, None where nothing is frozen.
        others, plan: what retraining needs, see `retrained`.
    """

    config: Config
    device: torch.device
    data: FederatedData
    model: nn.Module
    sharing: Sharing
    names: Mapping[str, str]
    roster: Sequence[Roster]
    frozen: str | None
    others: Others
    plan: Sequence[Retraining]

    @cached_property
    def counts(self) -> dict[int, np.ndarray]:
        """Training examples by label of each client."""
        return {client.id: client.label_counts for client in self.data.clients}

    @cached_property
    def examples(self) -> dict[int, int]:
        """Training examples of each client."""
        return {client.id: len(client.labels) for client in self.data.clients}

    @property
    def retrains(self) -> bool:
        """Whether federations are trained again without clients."""
        return self.config.evaluation.counterfactual == "retrain"

    @property
    def wanted(self) -> set[int]:
        """Numbers of the rounds to trace."""
        return wanted_rounds(self.config.provenance.rounds, self.config.federation.rounds)

    def participation(self, roster: Sequence[Roster]) -> Any:
        """Rows of `participation.csv`."""
        planted = self.config.injection, self.data.faults.free_riders
        return participation_frame(roster, list(self.counts), self.config.federation, *planted)


def prepared(config: Config, console: Console) -> Prepared:
    """Load data, make the initial model, check that all of it goes together, and say on the console what is to come.

    Raises:
        InputError: data or model do not fit the configuration.
    """
    federation, evaluation = config.federation, config.evaluation
    device = choose_device(config.device)
    check_function(config.model)  # what somebody named is asked whether it can serve before data are read
    check_functions(config.dataset)
    check_precision(federation.precision, config.device)
    data = _as_written(federated_data(config), config.environment)
    model = build(config.model, data.form, len(data.label_names), config.seed, config.lora)
    sharing = sharing_of(model, federation, config.model.adapter)
    config = with_scope(config, model, sharing, len(data.clients))
    check_model(config.privacy, model, sharing.shared)
    chosen_layers(dict(model.named_modules()), config.provenance.layers)
    check_batches(federation.batch_size, data, config.model.name, model)
    examples = {client.id: len(client.labels) for client in data.clients}
    check_client(evaluation.client, sharing, examples)
    make_cache(Path(config.store.cache))
    if has_base(config, data):  # made only now, when all else is known to be right
        model = initial_model(config, data, say=partial(console.print, style="bold", highlight=False))
    names = {
        "dataset": masked(config.dataset.name, config.environment, "dataset"),
        "model": masked(config.model.name, config.environment, "model"),
    }
    roster = rosters(federation, list(examples), list(examples.values()), config.seed, federation.rounds)
    frozen = frozen_digest(model, sharing)
    ready = Prepared(config, device, data, model, sharing, names, roster, frozen, {}, [])
    fusion = type(config.fusion).__name__
    show_header(console, data, names["model"], federation, fusion, str(device), config.seed)
    show_clients(console, ready.counts, data.label_names, evaluation.min_examples)
    check_attackers(config.injection, data, roster, federation)
    show_participation(console, ready.participation(roster), list(examples), len(roster))
    if not ready.retrains:
        return ready
    others = others_of(config, data)
    plan = plan_of(config.retrain, config.seed, data, others)
    whom = to_complete(sharing, evaluation.client, examples, roster, ready.wanted)
    for line in before_training(config, data, others, plan, max(ready.wanted), whom):
        console.print(Text(line, style="bold yellow"))
    return replace(ready, others=others, plan=plan)


def wanted_rounds(asked: Any, rounds: int) -> set[int]:
    """Numbers of the rounds to trace, of `rounds`: as `provenance.rounds` has it, last, all, or a list of them."""
    if asked == "last":
        return {rounds}
    return set(range(1, rounds + 1)) if asked == "all" else set(asked)


def _as_written(data: FederatedData, taken: Sequence[EnvironmentValue]) -> FederatedData:
    """`data`, what is said of them without values of the environment."""
    said = {name: getattr(data.source, name) for name in ("name", "location", "note")}
    source = replace(data.source, **masked(said, taken, "dataset"))
    return replace(data, source=source, lines=masked(data.lines, taken, "dataset", "model"))
