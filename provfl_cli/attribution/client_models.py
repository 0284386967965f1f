"""What each client of a round sent, seen apart from any prediction: its own model's outputs, and its update."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from ..fusion.updates import ReturnedModels, unclipped
from ..imports import later
from ..seeds import derived_seed
from ..store.rounds import Round
from .method import Case

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from ..provenance import outputs, shared_part
    from ..provenance.outputs import Inputs
else:
    np = later("numpy")
    torch = later("torch")
    outputs = later("provfl_cli.provenance.outputs")
    shared_part = later("provfl_cli.provenance.shared_part")


def some_inputs(case: Case, most: int, purpose: str) -> Inputs:
    """At most so many of the unlabelled inputs of a case, drawn from its seed and what they are for."""
    inputs = case.many
    count = outputs.count_of(inputs)
    if count <= most:
        return inputs
    drawn = np.random.default_rng(derived_seed(case.seed, purpose)).permutation(count)[:most]
    where = torch.from_numpy(np.sort(drawn))
    if isinstance(inputs, Mapping):
        return {name: tensor[where.to(tensor.device)] for name, tensor in inputs.items()}
    return inputs[where.to(inputs.device)]


def own_outputs(case: Case, inputs: Inputs) -> Iterator[Tensor]:
    """What each client's own model makes of inputs, in the order of the round's stack; the model is left as it is last.

    What clients do not share is in these models as it is in `case.model`.

    Yields:
        float64 `[inputs, classes]`, logits; of a model without classes `[inputs, numbers]`.
    """
    stack = case.stored.as_sent().client_stack()
    case.model.to(case.device).eval()
    for client in range(len(case.stored.clients)):
        shared_part.load_part(case.model, {name: stack[name][client] for name in stack})
        yield _outputs(case, inputs)


def global_outputs(case: Case, inputs: Inputs) -> Tensor:
    """What the round's global model makes of inputs, as `own_outputs`; the model holds its weights then."""
    case.model.to(case.device).eval()
    shared_part.load_part(case.model, case.stored.weights())
    return _outputs(case, inputs)


def _outputs(case: Case, inputs: Inputs) -> Tensor:
    parts = outputs.outputs_of(case.model, inputs, case.device, case.tells_classes)
    return torch.cat([part.cpu().double() for part in parts])


def update_products(stored: Round, parameters: Collection[str]) -> Tensor:
    """The inner products of the clients' updates `W_k - V_k`, float64 `[clients, clients]`.

    Args:
        stored: the round.
        parameters: over which, a tied one once.
    """
    stored = stored.as_sent()
    updates = unclipped(
        ReturnedModels(stored.previous(), stored.client_stack(), stored.examples, (), stored.buffers, stored.bases())
    )
    count = len(stored.clients)
    products = torch.zeros(count, count, dtype=torch.float64)
    for name in parameters:
        for where in updates.blocks(name):
            moved = updates.own(name, where).flatten(1)
            products += moved @ moved.T
    return products


def cosines_to_others(products: Tensor, shares: Tensor | None = None) -> Tensor:
    """The cosine of each update with the sum of the others', float64 `[clients]`; 0 where one of them is 0.

    Args:
        products: inner products of the updates, `[clients, clients]`.
        shares: what each counts in the sum, `[clients]`; None: all the same.
    """
    own = products.diagonal()
    weights = torch.ones_like(own) if shares is None else shares.to(own)
    with_all = products @ weights
    others = weights @ with_all - 2 * weights * with_all + weights.square() * own  # |sum of the others|^2
    # What is left of a difference of equal numbers is no direction.
    others = others.where(others > 1e-12 * (weights.square() * own).sum(), torch.zeros(()).to(own))
    lengths = (own * others).sqrt()
    along = with_all - weights * own
    return torch.where(lengths > 0, along / lengths.where(lengths > 0, torch.ones(()).to(own)), 0.0)
