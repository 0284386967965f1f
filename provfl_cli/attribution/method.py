"""What every attribution method is given, what it gives back, and how it is called.

Imported when a configuration is checked: what is heavy is loaded on its first use here and in the methods' own files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..config.parts import Method
from ..data.federated import Form
from ..fusion.fuse import Fusion
from ..fusion.privacy import Privacy
from ..imports import later
from ..provenance.settings import CLASS_TARGETS, Provenance
from ..store.rounds import Round
from .suspects import Suspicion

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from ..provenance import shared_part
    from ..provenance.outputs import Inputs
else:
    np = later("numpy")
    torch = later("torch")
    shared_part = later("provfl_cli.provenance.shared_part")


@dataclass(frozen=True)
class Case:
    """Predictions of one round's global model, and everything that a method may look at to attribute them to clients.

    Attributes:
        model: the architecture; a method may load any weights into it, and leaves it as it likes.
        inputs: `[inputs, …]`, pictures or tokens, on any device; or such tensors by argument name of the model.
        numbers: int64 `[inputs]`, where each input stands in the test set.
        labels: int64 `[inputs]`, true labels. For measuring only: a method that looks at them knows the answer.
        classes: int64 `[inputs]`, the predicted classes, which are explained; of the target `output` which of the
            numbers that the model puts out; of `mse` zeros.
        stored: the round: global weights before and after, the clients' weights, numbers of examples, decomposition.
        fusion, privacy: settings of the run, to fuse the round again; fusion None: not known.
        form: what a model has to know of the inputs; None where nothing is known.
        provenance: the run's own settings of tracing.
        seed: of everything random.
        device: where to compute.
        steps: optimizer steps that each client of the round made, to fuse it again; (): not known.
        wanted: of the target `mse` what the model should put out, `[inputs, numbers]`; of responses int64 `[inputs]`,
            0, the only number that their score has; None: of any other.
        label_counts: training examples by label of each client, int `[classes]`, which no server knows: for methods
            that say that they need the data; {}: not known.
        unlabelled: reads all test inputs of the server that are at hand, for methods that look at clients and not at
            predictions, see `many`; None: there are none beside `inputs`.
    """

    model: nn.Module
    inputs: Inputs
    numbers: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    stored: Round
    fusion: Fusion | None
    privacy: Privacy
    form: Form | None
    provenance: Provenance
    seed: int
    device: torch.device
    steps: Sequence[int] = ()
    wanted: Tensor | None = None
    label_counts: Mapping[int, np.ndarray] = field(default_factory=dict)
    unlabelled: Callable[[], Inputs | None] | None = None

    @property
    def explained(self) -> Tensor:
        """What is explained of each input, as `trace` takes it."""
        return torch.from_numpy(self.classes) if self.wanted is None else self.wanted

    @property
    def many(self) -> Inputs:
        """Many inputs, without labels: those of the server's test set, else the ones that are attributed."""
        found = None if self.unlabelled is None else self.unlabelled()
        return self.inputs if found is None else found

    @property
    def tells_classes(self) -> bool:
        """Whether a class is explained; else numbers that the model puts out, of which there is no probability.

        Of responses (`model` is a `ResponseScore`) it is their score; their `classes` are the topics that were said.
        """
        return self.provenance.target in CLASS_TARGETS


@dataclass(frozen=True)
class AttributionResult:
    """What a method says: the larger a client's value, the more the prediction is that client's doing.

    Attributes:
        values: float64 `[inputs, clients]`, clients in the order of `Case.stored.clients`, or of `clients`.
        candidates: bool `[clients]`, which clients are ranked: those that fusion used.
        seconds: wall clock that it took.
        errors: float64 `[inputs, clients]`, standard errors of values that were estimated; None: they are exact.
        note: what a reader has to know, one sentence; "": nothing.
        target: the scalar of the prediction that was explained, such as `margin`; `none`: the method looks at none.
        without: int64 `[inputs, clients]`, the class predicted without each client, -1 where there is no such model;
            None: not measured.
        scope: `round`, or `lineage` where clients of earlier rounds are ranked as well.
        clients: who is ranked, by number; None: the clients of the round.
        rows: of a trace also what no client sent, float64 `[inputs]` by kind.
        suspicion: what is suspected of each client of the round, of the method that does; None: of others.
    """

    values: np.ndarray
    candidates: np.ndarray
    seconds: float
    errors: np.ndarray | None = None
    note: str = ""
    target: str = "none"
    without: np.ndarray | None = None
    scope: str = "round"
    clients: tuple[int, ...] | None = None
    rows: Mapping[str, np.ndarray] = field(default_factory=dict)
    suspicion: Suspicion | None = None


@runtime_checkable
class Attribution(Method, Protocol):
    """A method: beside its settings (`config.parts.Method`) what it computes."""

    def attribute(self, case: Case) -> AttributionResult:
        """Attribute the predictions of `case` to the clients of its round."""


def attributions(methods: Iterable[Method]) -> tuple[Attribution, ...]:
    """The methods of a configuration, which are known to attribute since that is asked of them (`config.targets`)."""
    able = []
    for method in methods:
        assert isinstance(method, Attribution), method
        able.append(method)
    return tuple(able)


def used_clients(case: Case) -> np.ndarray:
    """Clients that fusion took anything of, bool `[clients]`: the candidates of every method."""
    return case.stored.decomposition.candidates(shared_parameters(case)).numpy()


def shared_parameters(case: Case) -> list[str]:
    """The model's parameters that the round holds, by the names that they have there; a tied one once."""
    own = case.model.state_dict(keep_vars=True)
    parameters = {id(parameter) for parameter in case.model.parameters()}
    names = shared_part.model_names(case.stored.weights(), own, "model", "the models of the round")
    held = {id(own[called]): name for name, called in reversed(names.items())}
    return [name for name in names if held[id(own[names[name]])] == name and id(own[names[name]]) in parameters]


def for_every_input(values: np.ndarray, case: Case) -> np.ndarray:
    """Values `[clients]` that do not depend on the input, as `[inputs, clients]`."""
    return np.tile(np.asarray(values, dtype=np.float64), (len(case.numbers), 1))
