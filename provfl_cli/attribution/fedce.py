"""FedCE's estimate of what each client contributes (Jiang et al., CVPR 2023, "Fair Federated Medical Image Segmentation
via Client Contribution Estimation"), by its two terms.

As in the paper and the authors' code (NVFlare, `research/fed-ce`):

1. Gradient space: `1 - cos(D_k, sum_{j != k} q_j D_j)`, averaged over all rounds so far. Who moves where the others do
   not, contributes what they cannot.
2. Data space: the error of the model without the client, `(W - q_k W_k) / (1 - q_k)`, averaged over all rounds so far.
   Where that errs, the client was needed.
3. Both are divided by their sum over the clients and raised to 0.001 where they are less, then multiplied or added.

What had to differ: the paper measures the error of 2 by each client, on validation data of its own. No server has
these, so here the error is the share of the server's unlabelled test inputs for which the model without the client
predicts something else than the round's global model. That keeps the model without the client, and loses that its own
data judge. `q_k` are the shares of the run's fusion, since no weights by FedCE were used in training.

The paper's conditions: few clients (three to six hospitals), all in every round, weighted averaging. A value is the
same for every prediction. High values say that a client adds something of its own, good or bad.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from ..checks import COUNT, in_range, one_of
from ..config.parts import RunSettings
from ..imports import later
from .client_models import cosines_to_others, some_inputs, update_products
from .earlier import check_all_kept, rounds_before, said_of
from .method import AttributionResult, Case, for_every_input, shared_parameters, used_clients
from .settings import check_classes, check_no_products

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..provenance import outputs, shared_part
    from ..provenance.outputs import Inputs
else:
    np = later("numpy")
    torch = later("torch")
    outputs = later("provfl_cli.provenance.outputs")
    shared_part = later("provfl_cli.provenance.shared_part")

COMBINED = ("times", "plus")
LEAST = 1e-3


@dataclass(frozen=True)
class FedCE:
    """See the module.

    Attributes:
        name: of the method.
        combine: the two terms are multiplied (`times`) or added (`plus`).
        inputs: of so many unlabelled inputs at most is the error, drawn from the seed where there are more.
    """

    name: str = "fedce"
    combine: str = "times"
    inputs: Annotated[int, COUNT] = 500

    def __post_init__(self) -> None:
        in_range(f"attribution.{self.name}", self)
        one_of(f"attribution.{self.name}.combine", self.combine, COMBINED)

    def check(self, run: RunSettings) -> None:
        """Refuse responses, and a run that forgets its rounds."""
        check_classes(self.name, run)
        check_no_products(self.name, run.fusion)
        check_all_kept(self.name, run)

    def attribute(self, case: Case) -> AttributionResult:
        """The same for every input; nobody is ranked where there are no others, or no classes."""
        began = time.perf_counter()
        candidates = used_clients(case)
        if len(candidates) < 2 or not case.tells_classes:
            why = "there are no other clients" if len(candidates) < 2 else "the model tells no classes apart"
            nothing = np.zeros((len(case.classes), len(candidates)))
            seconds = time.perf_counter() - began
            return AttributionResult(nothing, candidates & False, seconds, note=f"{self.name}: {why}")
        rounds = [*rounds_before(case.stored), case.stored]
        inputs = some_inputs(case, self.inputs, self.name)
        directions, errors = dict[int, list[float]](), dict[int, list[float]]()
        for stored in rounds:
            one = replace(case, stored=stored)
            for client, apart, error in zip(
                stored.clients, apart_from_others(one), errors_without(one, inputs), strict=True
            ):
                directions.setdefault(client, []).append(apart)
                errors.setdefault(client, []).append(error)
        shared_part.load_part(case.model, case.stored.weights())
        terms = [
            _share(np.array([np.mean(means[client]) for client in case.stored.clients]))
            for means in (directions, errors)
        ]
        whole = terms[0] * terms[1] if self.combine == "times" else terms[0] + terms[1]
        said = said_of(rounds)
        return AttributionResult(
            for_every_input(_share(whole), case),
            candidates,
            time.perf_counter() - began,
            note=f"{self.name}: {said}" if said else "",
        )


def apart_from_others(case: Case) -> np.ndarray:
    """`1 - cos(D_k, sum_{j != k} q_j D_j)` of a round, float64 `[clients]`."""
    products = update_products(case.stored, shared_parameters(case))
    shares = case.stored.decomposition.example_weights
    apart: np.ndarray = 1.0 - cosines_to_others(products, shares).numpy()
    return apart


def errors_without(case: Case, inputs: Inputs) -> np.ndarray:
    """The share of `inputs` for which the model without a client predicts something else, `[clients]`.

    Without a client the model is `(W - q_k W_k) / (1 - q_k)`; of buffers, which are averaged by examples under every
    fusion, with that share in place of `q_k`; whole numbers stay. A client that is all there is has no such model: 1.
    """
    whole, stack, shares = case.stored.weights(), case.stored.client_stack(), case.stored.decomposition.example_weights

    def predicted() -> torch.Tensor:
        parts = outputs.outputs_of(case.model, inputs, case.device, True)
        return torch.cat([part.argmax(1).cpu() for part in parts])

    case.model.to(case.device).eval()
    shared_part.load_part(case.model, whole)
    before, errors = predicted(), list[float]()
    by_examples = np.array(case.stored.examples) / sum(case.stored.examples)
    for client, share in enumerate(shares.tolist()):
        if share >= 1:
            errors.append(1.0)
            continue
        without = dict(whole)
        for name, tensor in whole.items():
            if tensor.is_floating_point():
                part = by_examples[client] if name in case.stored.buffers else share
                rest = (tensor.double() - part * stack[name][client].double()) / (1 - part)
                without[name] = rest.to(tensor.dtype)
        shared_part.load_part(case.model, without)
        errors.append(float((predicted() != before).double().mean()))
    return np.array(errors)


def _share(values: np.ndarray) -> np.ndarray:
    """Values divided by their sum, and no less than 0.001."""
    total = values.sum()
    shares = values / total if total > 0 else np.full_like(values, 1 / len(values))
    raised: np.ndarray = np.maximum(shares, LEAST)
    return raised
