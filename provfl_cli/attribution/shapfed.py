"""ShapFed's class-specific Shapley values (Tastan, Fares, Aremu, Horvath and Nandakumar, IJCAI 2024, "Redefining
Contributions: Shapley-Driven Federated Learning").

As in the paper, the value of client k for class c is the cosine between two rows of the last layer, bias included: of
what the client changed there, and of what the server averaged, `cos(D_k[c], sum_j q_j D_j[c])`. The paper shows that
this approximates the class's Shapley value. A moving average over rounds, `v <- memory v + (1 - memory) new`, is the
paper's too; a client's begins with the first round in which it takes part.

What had to differ: the paper values clients class by class, for aggregation and rewards, and no single prediction; here
an input is given the values of the class that is explained. Its server averages with the values themselves as weights;
here it is the run's own, and `q_j` are its shares.

The paper's conditions: all clients take part in every round, the last layer is shared and has a row for each class.
Where it has not, as with one output for two classes or a private head, nobody is ranked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..checks import BELOW_ONE, in_range
from ..config.parts import RunSettings
from ..fusion.updates import ReturnedModels, unclipped
from ..imports import later
from ..store.rounds import Round
from .earlier import check_all_kept, rounds_before, said_of
from .method import AttributionResult, Case, used_clients
from .settings import check_classes, check_no_products

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from ..federation import sharing
    from ..provenance import shared_part
else:
    np = later("numpy")
    torch = later("torch")
    shared_part = later("provfl_cli.provenance.shared_part")
    sharing = later("provfl_cli.federation.sharing")


@dataclass(frozen=True)
class ShapFed:
    """See the module.

    Attributes:
        name: of the method.
        memory: what of a client's values is kept from round to round (`mu` in the paper); 0: the round alone counts.
    """

    name: str = "shapfed"
    memory: Annotated[float, BELOW_ONE] = 0.5

    def __post_init__(self) -> None:
        in_range(f"attribution.{self.name}", self)

    def check(self, run: RunSettings) -> None:
        """Refuse responses, and a run that forgets its rounds, where they are looked at."""
        check_classes(self.name, run)
        check_no_products(self.name, run.fusion)
        if self.memory:
            check_all_kept(self.name, run)

    def attribute(self, case: Case) -> AttributionResult:
        """The values of each input's class."""
        began = time.perf_counter()
        layer = last_layer(case)
        candidates = used_clients(case)
        if layer is None or not case.tells_classes or int(case.classes.max(initial=0)) >= layer.classes:
            note = f"{self.name}: the clients share no last layer with a row for each class"
            return AttributionResult(
                np.zeros((len(case.classes), len(candidates))),
                candidates & False,
                time.perf_counter() - began,
                note=note,
            )
        rounds = [*(rounds_before(case.stored) if self.memory else ()), case.stored]
        kept: dict[int, np.ndarray] = {}
        for stored in rounds:
            for client, values in zip(stored.clients, class_values(stored, layer), strict=True):
                kept[client] = self.memory * kept[client] + (1 - self.memory) * values if client in kept else values
        by_class = np.stack([kept[client] for client in case.stored.clients], axis=1)
        said = said_of(rounds) if self.memory else ""
        return AttributionResult(
            by_class[case.classes],
            candidates,
            time.perf_counter() - began,
            note=f"{self.name}: {said}" if said else "",
        )


@dataclass(frozen=True)
class LastLayer:
    """The layer that puts out the logits, by its names in the round: `weight` `[classes, features]`, `bias` or None."""

    weight: str
    bias: str | None
    classes: int


def last_layer(case: Case) -> LastLayer | None:
    """The last layer of a model; None where clients do not share it, or it has not a row for each class."""
    own = case.model.state_dict()
    heads = sharing.head_names(case.model)
    weights = [name for name in own if name in heads and name.endswith("weight") and own[name].dim() == 2]
    if not weights:
        return None
    held = {called: name for name, called in _names(case).items()}
    weight, bias = weights[-1], weights[-1].removesuffix("weight") + "bias"
    if weight not in held or len(own[weight]) < 2:
        return None
    return LastLayer(held[weight], held.get(bias), len(own[weight]))


def _names(case: Case) -> dict[str, str]:
    """The model's name of each tensor of the round."""
    return shared_part.model_names(case.stored.weights(), case.model.state_dict(), "model", "the models of the round")


def class_values(stored: Round, layer: LastLayer) -> np.ndarray:
    """`cos(D_k[c], sum_j q_j D_j[c])` of a round, float64 `[clients, classes]`; 0 where one of them is 0."""
    updates = unclipped(
        ReturnedModels(stored.previous(), stored.client_stack(), stored.examples, (), stored.buffers, stored.bases())
    )
    names = [layer.weight, *([] if layer.bias is None else [layer.bias])]
    rows: Tensor = torch.cat([updates.own(name, slice(None)).flatten(2) if name == layer.weight
                              else updates.own(name, slice(None))[..., None] for name in names], 2)  # fmt: skip
    mean = torch.tensordot(stored.decomposition.example_weights, rows, 1)
    lengths = rows.norm(dim=2) * mean.norm(dim=1)
    cosines = (rows * mean).sum(2) / lengths.where(lengths > 0, torch.ones(()))
    values: np.ndarray = cosines.where(lengths > 0, torch.zeros(())).numpy()
    return values
