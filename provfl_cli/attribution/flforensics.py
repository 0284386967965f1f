"""FLForensics' influence scores (Jia, Fang, Liu, Zhang and Gong, NeurIPS 2025, "Tracing Back the Malicious Clients in
Poisoning Attacks to Federated Learning"; arXiv 2407.07221).

As in the paper: a client's influence on the prediction `y` for an input is how much its updates lowered the input's
loss, to first order, `sum_t 1/|C_t| <-grad loss(w_t), D_k / |D_k|>`, over the rounds in which it took part; `w_t` is
the model that round began with, `y` the label that the last model predicts, and updates count by direction alone.

What had to differ: the paper keeps the models of some rounds (checkpoints) and multiplies by the learning rate; here
all rounds kept are used, and the rate, the same for all, is left out. The paper goes on: it clusters clients by two
scores, for the misclassified input and for inputs of noise with the same label (HDBSCAN), and calls clusters malicious.
That needs some dozens of clients and one target; here clients are ranked by the score itself.

The paper's conditions: a misclassified target input is at hand, clients and global models of many rounds are kept. All
clients that ever took part are ranked, so the scope is `lineage`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .. import provenance
from ..config.parts import RunSettings
from ..config.validate import provenance_preset
from ..errors import InputError
from ..fusion.decomposition import DIFFERENCE, Decomposition
from ..imports import later
from ..store.rounds import Round
from .client_models import update_products
from .earlier import check_all_kept, rounds_before, said_of
from .method import AttributionResult, Case, shared_parameters
from .settings import check_classes, check_no_products

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from ..provenance import state_dicts
    from ..provenance.settings import Provenance
    from ..provenance.state_dicts import RoundInMemory
else:
    np = later("numpy")
    torch = later("torch")
    state_dicts = later("provfl_cli.provenance.state_dicts")


@dataclass(frozen=True)
class FLForensics:
    """See the module."""

    name: str = "flforensics"

    def check(self, run: RunSettings) -> None:
        """Refuse responses, and a run that forgets its rounds."""
        check_classes(self.name, run)
        check_no_products(self.name, run.fusion)
        check_all_kept(self.name, run)

    def attribute(self, case: Case) -> AttributionResult:
        """One trace a round, of the model that it began with.

        Raises:
            InputError: there are no classes, whose loss would be explained.
        """
        began = time.perf_counter()
        if not case.tells_classes:
            raise InputError(f"--method {self.name}: explains the loss of a class, and the model tells none apart")
        rounds = [*rounds_before(case.stored), case.stored]
        clients = sorted({client for stored in rounds for client in stored.clients})
        column = {client: at for at, client in enumerate(clients)}
        values = np.zeros((len(case.classes), len(clients)))
        used = np.zeros(len(clients), dtype=bool)
        parameters = shared_parameters(case)
        base = replace(
            provenance_preset("faithful"),
            client_weighting="none",
            shards=case.provenance.shards,
            shard_on=case.provenance.shard_on,
        )
        for stored in rounds:
            at = [column[client] for client in stored.clients]
            values[:, at] += influences(case, stored, base, parameters) / len(stored.clients)
            used[at] |= stored.decomposition.candidates(parameters).numpy()
        said = said_of(rounds)
        return AttributionResult(
            values,
            used,
            time.perf_counter() - began,
            note=f"{self.name}: {said}" if said else "",
            target="loss",
            scope="lineage",
            clients=tuple(clients),
        )


def influences(case: Case, stored: Round, settings: Provenance, parameters: list[str]) -> np.ndarray:
    """`<grad log p_y(w_t), D_k / |D_k|>` of a round's clients, float64 `[inputs, clients]`; 0 of an update that is 0.

    The gradient of the margin is that of `log p` divided by `1 - p`, so a trace of the margin gives it.

    Args:
        case: the inputs, and the classes `y`.
        stored: the round.
        settings: of that trace.
        parameters: over which the updates' lengths are.
    """
    found = provenance.trace(case.model, case.inputs, as_begun(stored), settings, case.explained)
    chance = found.probabilities[np.arange(len(case.classes)), case.classes].astype(np.float64)
    lengths = update_products(stored, parameters).diagonal().sqrt().numpy()
    projections = np.divide(found.values, lengths, out=np.zeros_like(found.values), where=lengths > 0)
    result: np.ndarray = (1.0 - chance)[:, None] * projections
    return result


def as_begun(stored: Round) -> RoundInMemory:
    """A round whose model is the one that it began with: what clients changed is taken back in a row of its own."""
    previous, stack, bases = stored.previous(), stored.client_stack(), stored.bases()
    taken: dict[str, Tensor] = {}
    for name, tensor in previous.items():
        if name not in stored.buffers:
            moved = stack[name].double() - tensor.double()
            for position, start in bases.items():
                moved[position] = stack[name][position].double() - start[name].double()
            taken[name] = -moved.sum(0)
    return state_dicts.RoundInMemory(
        stored.clients,
        Decomposition(torch.ones(len(stored.clients), dtype=torch.float64), {}, {DIFFERENCE: taken}),
        previous,
        previous,
        stack,
        bases,
    )
