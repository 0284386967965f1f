"""Provenance over all rounds as a method among others: presets and decays side by side, in one run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..checks import POSITIVE_FRACTION, in_range
from ..config.parts import RunSettings
from ..config.validate import provenance_preset
from ..errors import InputError
from ..imports import later
from .earlier import check_all_kept, rounds_before
from .method import AttributionResult, Case
from .provenance import Traced, for_case, traced

if TYPE_CHECKING:
    from ..provenance import lineage
else:
    lineage = later("provfl_cli.provenance.lineage")


@dataclass(frozen=True)
class OverRounds:
    """A trace of what each client has sent over all rounds (design section 2, "Lineage"), with a decay of its own.

    The run's `provenance.scope=lineage` has the accumulators kept; this traces them with any preset, and with any
    decay: another one than `provenance.lineage_decay` is computed of the accumulators of all rounds.

    Attributes:
        name: of the method.
        preset: one of `conf/provenance`; None: the run's own settings.
        decay: what is kept of a contribution from round to round; the rest is in the row `forgotten`.
    """

    name: str
    preset: str | None = None
    decay: Annotated[float, POSITIVE_FRACTION] = 1.0

    def __post_init__(self) -> None:
        in_range(f"attribution.{self.name}", self)
        if self.preset is not None and provenance_preset(self.preset).of == "gradients":
            raise InputError(
                f"attribution.{self.name}.preset={self.preset}: over all rounds only what clients sent is kept: "
                "another preset"
            )

    def check(self, run: RunSettings) -> None:
        """Raise InputError where a run keeps no accumulators, or not those of all rounds that another decay needs."""
        if run.provenance.scope != "lineage":
            raise InputError(
                f"attribution={self.name}: traces what clients sent over all rounds, which is kept with "
                "provenance.scope=lineage"
            )
        if self.decay != run.provenance.lineage_decay:
            check_all_kept(self.name, run)

    def attribute(self, case: Case) -> AttributionResult:
        """One trace for all clients that ever took part."""
        began = time.perf_counter()
        settings = for_case(case, Traced(self.name, self.preset).settings(case.provenance, case.seed))
        source = lineage.lineage_decayed(case.stored, rounds_before(case.stored), self.decay)
        found = traced(case, settings, source)
        return AttributionResult(
            found.values,
            found.candidates,
            time.perf_counter() - began,
            target=settings.target,
            scope="lineage",
            clients=tuple(found.clients),
            rows=found.rows,
        )
