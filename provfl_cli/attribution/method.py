"""What every attribution method is given, what it gives back, and how it is called.

Imported when a configuration is checked: what is heavy is loaded on its first use here and in the methods' own files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import lazy_loader as lazy

from ..config.schema import Federation
from ..data.federated import Form
from ..fusion.fuse import Fusion
from ..provenance.settings import Provenance
from ..store.rounds import Round

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn
else:
    np = lazy.load("numpy")


@dataclass(frozen=True)
class Case:
    """Predictions of one round's global model, and everything that a method may look at to attribute them to clients.

    Attributes:
        model: the architecture; a method may load any weights into it, and leaves it as it likes.
        inputs: `[inputs, …]`, pictures or tokens, on any device.
        numbers: int64 `[inputs]`, where each input stands in the test set.
        labels: int64 `[inputs]`, true labels. For measuring only: a method that looks at them knows the answer.
        classes: int64 `[inputs]`, the predicted classes, which are explained.
        stored: the round: global weights before and after, the clients' weights, numbers of examples, decomposition.
        fusion, privacy: settings of the run, to fuse the round again.
        form: what a model has to know of the inputs; None where nothing is known.
        provenance: the run's own settings of tracing.
        seed: of everything random.
        device: where to compute.
        steps: optimizer steps that each client of the round made, to fuse it again; (): not known.
    """

    model: nn.Module
    inputs: Tensor
    numbers: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    stored: Round
    fusion: Any
    privacy: Any
    form: Form | None
    provenance: Provenance
    seed: int
    device: torch.device
    steps: Sequence[int] = ()


@dataclass(frozen=True)
class AttributionResult:
    """What a method says: the larger a client's value, the more the prediction is that client's doing.

    Attributes:
        values: float64 `[inputs, clients]`, clients in the order of `Case.stored.clients`.
        candidates: bool `[clients]`, which clients are ranked: those that fusion used.
        seconds: wall clock that it took.
        errors: float64 `[inputs, clients]`, standard errors of values that were estimated; None: they are exact.
        note: what a reader has to know, one sentence; "": nothing.
        target: the scalar of the prediction that was explained, such as `margin`; `none`: the method looks at none.
        without: int64 `[inputs, clients]`, the class predicted without each client, -1 where there is no such model;
            None: not measured.
    """

    values: np.ndarray
    candidates: np.ndarray
    seconds: float
    errors: np.ndarray | None = None
    note: str = ""
    target: str = "none"
    without: np.ndarray | None = None


class RunSettings(Protocol):
    """What a method may ask about the run that it is compared in, before it starts; a `Config` has it, and more."""

    @property
    def federation(self) -> Federation:
        """Clients, and how many of them train in a round."""

    @property
    def fusion(self) -> Fusion:
        """How rounds are fused, and so with how few clients they can be fused again."""

    @property
    def provenance(self) -> Provenance:
        """The run's own settings of tracing."""

    @property
    def tracefl_beside(self) -> bool:
        """Whether the run traces by the preset `tracefl` as well."""

    @property
    def seed(self) -> int:
        """Of everything random."""


class Attribution(Protocol):
    """A method: a frozen dataclass of its settings, named by `_target_` in `conf/attribution/NAME.yaml`.

    Where it has a field `name`, that is the key under `attribution` where it stands.
    """

    @property
    def name(self) -> str:
        """What it is called in every table."""

    def check(self, run: RunSettings) -> None:
        """Raise InputError where the method cannot work in a run of these settings."""

    def attribute(self, case: Case) -> AttributionResult:
        """Attribute the predictions of `case` to the clients of its round."""


def used_clients(case: Case) -> np.ndarray:
    """Clients that fusion took anything of, bool `[clients]`: the candidates of every method."""
    parameters = [name for name, _ in case.model.named_parameters()]
    return case.stored.decomposition.candidates(parameters).numpy()


def for_every_input(values: np.ndarray, case: Case) -> np.ndarray:
    """Values `[clients]` that do not depend on the input, as `[inputs, clients]`."""
    return np.tile(np.asarray(values, dtype=np.float64), (len(case.inputs), 1))
