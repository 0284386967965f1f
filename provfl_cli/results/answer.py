"""What is known of one prediction: each method's ranking, the layers, and what is measured without some clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..coverage import coverage_warning

OF_MODEL = "(the model itself)"  # what a layer without a name is called: parameters that lie in no module of the model


@dataclass(frozen=True)
class Layer:
    """A layer's part in one prediction: of all candidates together, and of the best client; neurons that took part."""

    name: str
    contribution: float
    best: float
    active: int
    neurons: int
    masked: bool


@dataclass(frozen=True)
class MethodAnswer:
    """What one method says: the best clients of `candidates`, what no client sent (by kind), layers where traced.

    `total` is the sum of the absolute contributions of all candidates, in the units of `rest`. Of a trace: `covered`,
    the share of the model's parameters that it accounts for, `uncovered`, the others and why, and the `residual` of
    conservation; None and empty for other methods.
    """

    method: str
    scope: str
    target: str
    clients: tuple[RankedClient, ...]
    candidates: int
    rest: Mapping[str, float]
    total: float
    layers: tuple[Layer, ...] = ()
    unused: int = 0
    covered: float | None = None
    uncovered: Mapping[str, str] = field(default_factory=dict)
    residual: float | None = None


@dataclass(frozen=True)
class WhatIf:
    """The prediction without some clients.

    `probabilities` are by label, or the values of a model without classes; None: `reason` says why there is no model.
    """

    kind: str
    clients: tuple[str, ...]
    probabilities: np.ndarray | None
    reason: str = ""


@dataclass(frozen=True)
class Effect:
    """What leaving one client out takes from the log-probability of the label explained, by kind; NaN: no model.

    Of a model without classes from the value that is explained, and `probabilities` are the values without the client.
    `predictions` are the labels predicted without it, by kind.
    """

    client: str
    losses: Mapping[str, float]
    probabilities: Mapping[str, float]
    predictions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Agreement:
    """How a method's ranking of the clients left out fits their measured effects.

    Clients that hardly push and cost hardly anything do not count, nor do pairs that differ by less than the noise
    (`run/confirmed.py`): `correlation` is Spearman's over the other `clients`, NaN where there is none;
    `against` are pairs of which the first is ranked higher and costs less, of `pairs` in all.
    """

    method: str
    scope: str
    kind: str
    correlation: float
    against: tuple[tuple[str, str], ...]
    pairs: int
    clients: int = 0


@dataclass(frozen=True)
class Conclusion:
    """What leaving clients out says of the first of a ranking: whether it is `confirmed` (None: nobody can tell), in
    words."""

    confirmed: bool | None
    sentence: str


@dataclass(frozen=True)
class Prediction:
    """Everything that was asked about one prediction.

    `label` is the true one's number, None where nobody knows; `explained` the number of the label that was explained.
    `doubts`: why the rankings may say little of this input. `kind` is `classes`; or `labels`, each there or not, or
    `values`: then `probabilities` are what the model put out, by name, and there is no predicted label; `wanted` is
    what the one explained should be, None where nobody knows.
    """

    title: str
    where: str
    round: int
    shown: np.ndarray | str | None
    label_names: tuple[str, ...]
    label: int | None
    explained: int
    probabilities: np.ndarray
    answers: tuple[MethodAnswer, ...]
    what_if: tuple[WhatIf, ...] = ()
    effects: tuple[Effect, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    kind: str = "classes"
    wanted: float | None = None
    conclusion: Conclusion | None = None

    @property
    def value(self) -> float:
        """The probability, or value, of what is explained."""
        return float(self.probabilities[self.explained])

    @property
    def predicted(self) -> int:
        """The number of the predicted label."""
        return int(self.probabilities.argmax())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What has to be read before the rankings: what a trace leaves out, doubts of the input."""
        said = (
            coverage_warning(answer.covered, answer.uncovered) for answer in self.answers if answer.covered is not None
        )
        return (*dict.fromkeys(text for text in said if text), *self.doubts)


@dataclass(frozen=True)
class RankedClient:
    """One client in a ranking; `examples` is how many it has of a label, the input's true one; None: not known.

    Tied clients have the same `rank`; `tie` says that it is one of several at rank 1. `also` counts examples of another
    label, where a second one is of interest. `name` is what it is called; "": its number.
    """

    client: int
    rank: int
    contribution: float
    share: float
    examples: int | None
    tie: bool
    faulty: bool = False
    also: int | None = None
    name: str = ""
