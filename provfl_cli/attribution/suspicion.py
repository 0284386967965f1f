"""Which clients of a round are unlike the others, whatever is predicted; it can say that nobody is.

Nothing here is about one prediction, and no label is looked at. Every client's own model `W_k` and its update
`W_k - V_k` are measured over many unlabelled inputs (the server's test inputs), and compared with those of the other
clients of the round by robust z (`suspects.py`). What the scores find, and how often they accuse clients of clean
federations, is measured in `attribution/README.md`.

That servers look at clients' norms and directions is old (Blanchard et al. 2017; Sun et al. 2019); the entropy of
predictions tells noisy labels (Northcutt et al. 2021 use confidence of single examples so).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from ..checks import COUNT, Range, in_range
from ..config.parts import RunSettings
from ..config.validate import provenance_preset
from ..coverage import printable
from ..errors import InputError
from ..fusion.conditions import clients_a_round
from ..imports import later
from .client_models import cosines_to_others, global_outputs, own_outputs, some_inputs, update_products
from .method import AttributionResult, Case, for_every_input, shared_parameters, used_clients
from .provenance import for_case, traced
from .suspects import FEWEST, Score, Suspicion, suspicion_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from ..provenance import outputs
    from ..provenance.outputs import Inputs
else:
    np = later("numpy")
    torch = later("torch")
    outputs = later("provfl_cli.provenance.outputs")

# Thresholds were chosen on clean federations (`attribution/README.md`), above all z that were seen there.
ENTROPY = Score("entropy", "high", threshold=5.0, least=0.05)
DISAGREEMENT = Score("disagreement", "high", threshold=6.0, least=0.03)
MARGIN = Score("margin", "high", threshold=10.0, least=0.1)
NORM = Score("norm", "both", threshold=6.0, least=0.15, logarithm=True)
DIRECTION = Score("direction", "low", threshold=5.0, least=0.03)


@dataclass(frozen=True)
class ClientSuspicion:
    """The degree of suspicion of each client, the same for every prediction; and the table of scores behind it.

    Attributes:
        name: of the method.
        inputs: how many unlabelled inputs are looked at, drawn from the seed where there are more.
        strictness: what all thresholds are multiplied by: above 1 fewer clients are suspected.
    """

    name: str = "suspicion"
    inputs: Annotated[int, COUNT] = 500
    strictness: Annotated[float, Range(0, 1e6, open_least=True)] = 1.0

    def __post_init__(self) -> None:
        in_range(f"attribution.{self.name}", self)

    def check(self, run: RunSettings) -> None:
        """Refuse rounds with fewer clients than can be compared."""
        there = clients_a_round(run.federation)
        if there < FEWEST:
            key = "clients" if run.federation.clients_per_round is None else "clients_per_round"
            raise InputError(
                f"attribution={self.name}: compares the clients of a round, of which there are {there}, and fewer than "
                f"{FEWEST} are too few to tell who is unlike the others: federation.{key}={FEWEST} or more, or another "
                "method"
            )

    def attribute(self, case: Case) -> AttributionResult:
        """Nobody is ranked where there are too few clients to compare."""
        began = time.perf_counter()
        found = suspicion(case, self.inputs, self.strictness)
        names = dict(zip(case.stored.clients, map(printable, case.stored.names), strict=False))
        note = f"suspected in round {case.stored.number}: {found.called(names)}"
        if not found.compared:
            note = f"{self.name}: {len(found.clients)} clients are too few to tell who is unlike the others"
        return AttributionResult(
            for_every_input(found.degrees, case),
            used_clients(case) & found.compared,
            time.perf_counter() - began,
            note=note,
            suspicion=found,
        )


def suspicion(case: Case, inputs: int = 500, strictness: float = 1.0) -> Suspicion:
    """Measure the clients of a round, and say who is suspected.

    Args:
        case: the round, and inputs (`case.many`); labels and classes are not looked at.
        inputs: at most so many of them.
        strictness: what all thresholds are multiplied by.
    """
    return suspicion_of(case.stored.clients, measured(case, some_inputs(case, inputs, "suspicion")), strictness)


def measured(case: Case, inputs: Inputs, beside: Callable[[Tensor], None] | None = None) -> dict[Score, np.ndarray]:
    """What is measured of each client of a round, float64 `[clients]`, by score.

    entropy: the mean entropy, in nats, of the predictions of the client's own model: wrong labels blur it.
    disagreement: the share of inputs for which its own model predicts something else than the global model.
    margin: the mean contribution of its update, whatever its number of examples, to the log-odds of what the global
        model predicts: the preset `faithful` without `q_k`. Far above the others' it has taken the model over; below
        it, clients with few labels are too.
    norm: the length of its update, compared by logarithms: scaled ones, and those of who did nothing.
    direction: the cosine of its update with the sum of the others'.

    Entropy and disagreement are of classes; models without have the other three. `beside` sees the outputs of each
    client's own model too, in the order of the round.
    """
    values: dict[Score, np.ndarray] = {}
    whole = global_outputs(case, inputs)
    if case.tells_classes:
        entropies, disagreements = list[float](), list[float]()
        for own in own_outputs(case, inputs):
            if beside is not None:
                beside(own)
            logs = own.log_softmax(1)
            entropies.append(float(-(logs.exp() * logs).sum(1).mean()))
            disagreements.append(float((own.argmax(1) != whole.argmax(1)).double().mean()))
        values[ENTROPY], values[DISAGREEMENT] = np.array(entropies), np.array(disagreements)
        values[MARGIN] = _margins(case, inputs, whole.argmax(1))
    products = update_products(case.stored, shared_parameters(case))
    values[NORM] = products.diagonal().sqrt().numpy()
    values[DIRECTION] = cosines_to_others(products).numpy()
    return values


def _margins(case: Case, inputs: Inputs, predicted: Tensor) -> np.ndarray:
    settings = replace(provenance_preset("faithful"), client_weighting="none")
    spread = replace(settings, shards=case.provenance.shards, shard_on=case.provenance.shard_on)
    count = outputs.count_of(inputs)
    asked = replace(case, inputs=inputs, numbers=np.arange(count), classes=predicted.numpy())
    margins: np.ndarray = traced(asked, for_case(case, spread)).values.mean(axis=0)
    return margins
