"""Provenance as a method among others: its presets, the last layer alone, and a selection of neurons (ablation)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from .. import provenance
from ..checks import POSITIVE_FRACTION, in_range, one_of
from ..config.parts import RunSettings
from ..config.validate import provenance_preset
from ..errors import InputError
from ..imports import later
from ..provenance.settings import CLASS_TARGETS, NEURONS, TOKEN_TARGETS, Provenance
from .method import AttributionResult, Case

if TYPE_CHECKING:
    from ..provenance import responses
    from ..provenance.contributions import Contributions
    from ..provenance.stack import Source
else:
    responses = later("provfl_cli.provenance.responses")


@dataclass(frozen=True)
class Traced:
    """A trace of the round with other settings than the run's own (design section 2).

    Attributes:
        name: of the method.
        preset: one of `conf/provenance`, with the threshold it comes with; None: the run's own settings.
        layers: `all`, `last`, or layer types; None: those of the settings.
        neurons: which neurons of each use of a layer count: `all`; `gradient`, the share `fraction` of them with the
            largest |gradient x activation| for the input; `random`, such a share drawn once for each layer. The mask of
            the threshold applies besides.
        fraction: that share, above 0 and at most 1.
        target: what is explained of a class: logit, centred or margin; None: as the settings have it.
    """

    name: str
    preset: str | None = None
    layers: Any = None
    neurons: str = "all"
    fraction: Annotated[float, POSITIVE_FRACTION] = 1.0
    target: str | None = None

    def __post_init__(self) -> None:
        key = f"attribution.{self.name}"
        one_of(f"{key}.neurons", self.neurons, NEURONS)
        in_range(key, self)
        if self.target is not None:
            one_of(f"{key}.target", self.target, CLASS_TARGETS)
        if self.preset is not None:
            provenance_preset(self.preset)

    def check(self, run: RunSettings) -> None:
        """Raise InputError where the run traces something else by the same name."""
        settings = self.settings(run.provenance, run.seed)
        beside = [provenance_preset("tracefl")] if run.tracefl_beside else []
        for other in (run.provenance, *beside):
            if other.name == self.name and replace(settings, **_common(other)) != other:
                raise InputError(
                    f"attribution={self.name}: the run traces by that name with other settings: "
                    f"leave it out, or choose another provenance=…"
                )

    def settings(self, own: Provenance, seed: int) -> Provenance:
        """What is traced, where the run's own settings are `own`."""
        base = own if self.preset is None else replace(provenance_preset(self.preset), **_common(own))
        return replace(
            base,
            name=self.name,
            target=self.target or base.target,
            layers=base.layers if self.layers is None else self.layers,
            neurons=self.neurons,
            neuron_fraction=self.fraction,
            neuron_seed=seed if self.neurons == "random" else 0,
        )

    def attribute(self, case: Case) -> AttributionResult:
        """One trace for all clients."""
        began = time.perf_counter()
        settings = for_case(case, self.settings(case.provenance, case.seed))
        contributions = traced(case, settings)
        return AttributionResult(
            contributions.values, contributions.candidates, time.perf_counter() - began, target=settings.target
        )


def _common(settings: Provenance) -> dict[str, Any]:
    """What says nothing about the contributions to one round: when and how to trace."""
    keys = ("rounds", "batch_size", "memory_mb", "shards", "shard_on")
    return {key: getattr(settings, key) for key in keys}


def for_case(case: Case, settings: Provenance) -> Provenance:
    """The settings for what a case explains: of numbers that are no logits there is one target alone.

    Of responses the target is that of each of their tokens.
    """
    if case.tells_classes:
        return settings
    if isinstance(case.model, responses.ResponseScore):
        if settings.target in TOKEN_TARGETS:
            return settings
        return replace(settings, target=case.model.kind if case.model.kind in CLASS_TARGETS else "output")
    return replace(settings, target=case.provenance.target)


def traced(case: Case, settings: Provenance, source: Source | None = None, layer_sample: int = 0) -> Contributions:
    """Trace the inputs of `case` with the settings that `for_case` gives.

    `source`: what is traced in place of the case's round; `layer_sample` as of `trace`.
    """
    return traced_each([case], settings, source, layer_sample)[0]


def traced_each(
    cases: Sequence[Case], settings: Provenance, source: Source | None = None, layer_sample: int = 0
) -> list[Contributions]:
    """The same as `traced` for several cases that differ in what is explained alone: they share the forward pass."""
    case = cases[0]
    model, source = case.model, case.stored if source is None else source
    score = None
    if isinstance(model, responses.ResponseScore):
        kind = settings.target if settings.target in TOKEN_TARGETS else model.kind
        score, settings = responses.ResponseScore(model.module, kind, model.span), replace(settings, target="output")
    targets = [(settings.target, each.explained) for each in cases]
    found = provenance.trace_targets(score or model, case.inputs, source, settings, targets, layer_sample)
    return found if score is None else [responses.named_as_model(scored) for scored in found]
