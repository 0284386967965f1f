"""Repairs of several runs side by side: by setting and way, the seeds averaged, each seed beside its own retraining."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from ..evaluation.repair import Quality, gap
from ..results.folders import RunFolder
from ..results.repair import WAYS, Repair
from .settings import differing, value

AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Averaged:
    """A way in a setting.

    Attributes:
        setting: the values of the settings in which the runs differ.
        way: its name, or `AS_IT_IS`.
        seeds: how many runs it is the mean of.
        quality: means over them.
        gap: the largest difference from retraining in accuracy or the fault's success of any seed; NaN: not compared.
        accuracy_gap, success_gap: mean over seeds of the difference from retraining, with its sign; NaN: not compared.
        seconds: mean; NaN of the model as it is.
        does: what is computed.
    """

    setting: tuple[str, ...]
    way: str
    seeds: int
    quality: Quality
    gap: float
    accuracy_gap: float
    success_gap: float
    seconds: float
    does: str


def averaged(repairs: Sequence[tuple[RunFolder, Repair]]) -> tuple[tuple[str, ...], list[Averaged]]:
    """The settings in which runs differ, and a row for each setting and way, in the order of the runs and of `WAYS`."""
    keys = differing([run for run, _ in repairs]).keys
    groups: dict[tuple[str, ...], list[Repair]] = {}
    for run, repair in repairs:
        groups.setdefault(tuple(value(run, key) for key in keys), []).append(repair)
    rows = []
    for setting, own in groups.items():
        rows.append(_row(setting, AS_IT_IS, [(repair.before, repair, math.nan, "") for repair in own]))
        for name in WAYS:
            there = [
                (way.quality, repair, way.seconds, way.does)
                for repair in own
                for way in repair.ways
                if way.name == name and way.quality is not None
            ]
            if there:
                rows.append(_row(setting, name, there))
    return keys, rows


def _row(setting: tuple[str, ...], way: str, own: Sequence[tuple[Quality, Repair, float, str]]) -> Averaged:
    pairs = [(quality, repair.retrained) for quality, repair, _, _ in own if repair.retrained is not None]
    return Averaged(
        setting,
        way,
        len(own),
        Quality(**{name: _mean([getattr(quality, name) for quality, *_ in own]) for name in _NAMES}),
        max((gap(quality, reference) for quality, reference in pairs), default=math.nan),
        _mean([quality.accuracy - reference.accuracy for quality, reference in pairs]),
        _mean([quality.success - reference.success for quality, reference in pairs]),
        _mean([seconds for _, _, seconds, _ in own]),
        "; ".join(dict.fromkeys(does for *_, does in own if does)),
    )


_NAMES = tuple(field.name for field in fields(Quality))


def _mean(values: Sequence[float]) -> float:
    known = [number for number in values if not math.isnan(number)]
    return float(np.mean(known)) if known else math.nan
