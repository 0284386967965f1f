"""Whether a run also traces what clients have sent over all rounds, where `provenance.scope=auto` leaves that open."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ..config.schema import Config
from ..federation.sharing import Sharing
from ..store.tensorfile import size_of, specs_of

MOST = 256 * 2**20  # bytes of what clients have sent over all rounds


def with_scope(config: Config, model: nn.Module, sharing: Sharing, clients: int) -> Config:
    """The configuration with `provenance.scope` settled: `lineage` where it is possible and cheap, else `round`.

    Which clients trained a prediction is told best by all rounds (`outputs/paper/benchmark.md`), so that stands beside
    the round wherever it costs little. In a single round both are the same.

    Args:
        config: of the run; one that asks for a scope keeps it.
        model: the initial global model.
        sharing: which of its tensors clients share.
        clients: how many were kept.
    """
    own = config.provenance
    if own.scope != "auto":
        return config
    tensors = model.state_dict()
    shared = size_of(specs_of({name: tensors[name] for name in sharing.shared}))
    sums = 4 if config.fusion.decay else 2  # weighted and not; with the server's momentum of each
    known = own.of != "gradients" and own.adapters == "factors" and not config.fusion.sums_products
    cheap = config.federation.rounds > 1 and sums * clients * shared <= MOST
    return replace(config, provenance=replace(own, scope="lineage" if known and cheap else "round"))
