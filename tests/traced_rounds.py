"""A stored round traced as a run traces it, with the settings of a configuration for tests."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from provfl_cli.config.schema import Config
from provfl_cli.data.federated import FederatedData
from provfl_cli.federation.client import steps_made
from provfl_cli.provenance.lineage import lineage_round
from provfl_cli.provenance.settings import Provenance
from provfl_cli.run.tracing import TracedRound, case_of, choose_inputs, trace_round
from provfl_cli.store.rounds import Round

from .federations import CPU


def traced_round(
    config: Config, presets: Sequence[Provenance], data: FederatedData, model: nn.Module, stored: Round
) -> TracedRound:
    """The round of `stored`, by these presets, of which the first is the run's own, and the methods of `config`."""
    model.load_state_dict(dict(stored.weights()))
    lineage = lineage_round(stored) if config.provenance.scope == "lineage" else None
    counts = {client.id: client.label_counts for client in data.clients}
    holders = {client: counts[client] for client in (stored.clients if lineage is None else lineage.clients)}
    chosen = choose_inputs(model, data.test, holders, config.evaluation, config.seed, CPU)
    examples = {client.id: len(client.labels) for client in data.clients}
    steps = steps_made(examples, stored, config.federation, config.seed) if config.attribution else ()
    case = case_of(
        chosen, model, stored, data, config.fusion, config.privacy, config.provenance, config.seed, CPU, steps
    )
    return trace_round(case, chosen, data, presets, config.attribution, lineage, config.evaluation.repeats)
