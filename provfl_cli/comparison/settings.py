"""In which settings runs differ, in the words that a user would type."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config.builtin import CALLED
from ..errors import InputError, did_you_mean
from ..results.folders import RunFolder

SEED = "seed"
METHODS = "attribution"  # a group of which a run has several options: the names of its methods are one setting
NO_RESULT = ("store", "tracker", "experiment")  # groups and blocks that no result depends on
# What a trained federation does not depend on.
TRACING = ("provenance", "attribution", "threshold", "tracefl_beside", "retrain")
MISSING = "–"


@dataclass(frozen=True)
class DifferingSettings:
    """Keys that tell runs apart, and those that differ only because another option was chosen."""

    keys: tuple[str, ...]
    brought: tuple[str, ...]


def differing(runs: Sequence[RunFolder]) -> DifferingSettings:
    """The config groups and keys in which `runs` differ; the seed is none of them.

    A group whose option differs stands for all that the option brings. Keys are named beside it where runs of the
    same options differ in them, or where somebody set them. Keys that follow from others by interpolation are left
    out, and so is where things are stored and logged. Which methods ran beside is one setting; of a method that all
    have, its settings are others.
    """
    groups = [
        group
        for group in _in_order(run.chosen for run in runs)
        if group not in (*NO_RESULT, METHODS) and len({run.chosen.get(group) for run in runs}) > 1
    ]
    of_options: dict[tuple[str | None, ...], list[RunFolder]] = {}
    for run in runs:
        of_options.setdefault(tuple(run.chosen.get(group) for group in groups), []).append(run)
    keys, brought = [], []
    if len(beside := {methods_beside(run) for run in runs}) > 1:
        keys.append(METHODS)
    everywhere = set[str].intersection(*map(set, beside)) if beside else set[str]()
    for key in _in_order(run.settings for run in runs):
        if key == SEED or _block(key) in NO_RESULT or all(key in run.following for run in runs if key in run.settings):
            continue
        if _block(key) == METHODS and _method(key) not in everywhere:
            continue
        if key.endswith(f".{CALLED}") and not any(key in run.overridden for run in runs):  # follows from the option
            continue
        if not _differs(key, runs):
            continue
        if any(_differs(key, alike) for alike in of_options.values()) or any(_was_set(key, run) for run in runs):
            keys.append(key)
        elif _block(key) not in groups:
            brought.append(key)
    return DifferingSettings((*groups, *keys), tuple(brought))


def confounded(runs: Sequence[RunFolder], keys: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Settings that change together, of those in which runs differ: by key, the others that do not stay the same.

    A key tells what it changes only where each of its values was tried with the same settings of the others. Where
    others go with it, a difference between its values may be theirs. Seeds are one of the others.
    """
    together = {}
    for key in keys:
        others = []
        for other in (*(each for each in keys if each != key), SEED):
            tried: dict[str, set[str]] = {}
            for run in runs:
                tried.setdefault(value(run, key), set()).add(value(run, other))
            if len({frozenset(values) for values in tried.values()}) > 1:
                others.append(other)
        if others:
            together[key] = tuple(others)
    return together


def asked_for(names: Sequence[str], runs: Sequence[RunFolder]) -> tuple[str, ...]:
    """`names` as config groups or dotted keys of `runs`; the end of a key is enough where it is the only one.

    Raises:
        InputError: there is no such setting, or several.
    """
    known = [METHODS, *_in_order(run.chosen for run in runs), *_in_order(run.settings for run in runs)]
    keys = []
    for name in names:
        ends = [key for key in known if key.endswith(f".{name}")]
        if name not in known and len(ends) != 1:
            answer = f"did you mean {' or '.join(ends[:3])}?" if ends else did_you_mean(name, known)
            raise InputError(f"--by {name}: no such setting, {answer}")
        keys.append(name if name in known else ends[0])
    return tuple(dict.fromkeys(keys))


def value(run: RunFolder, key: str) -> str:
    """A setting, or the option of a group, as text in one line."""
    if key == METHODS:
        return f"[{','.join(methods_beside(run))}]"
    if key in run.chosen:
        return MISSING if run.chosen[key] is None else str(run.chosen[key])
    return written(run.settings[key]) if key in run.settings else MISSING


def written(value: Any) -> str:
    """A value as it would be typed."""
    text = (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    )
    return " ".join(text.split())


def identity(run: RunFolder, without: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    """All settings that a result depends on, the seed included; two runs of the same identity give the same numbers."""
    left_out = {*NO_RESULT, *without}
    return tuple((key, written(setting)) for key, setting in run.settings.items() if _block(key) not in left_out)


def common(runs: Sequence[RunFolder], keys: Sequence[str]) -> str:
    """What all runs share of what a reader asks for first, written as on the command line."""
    first = runs[0].chosen
    asked = [group for group in ("dataset", "model", "partition", "injection", "fusion", "privacy") if group in first]
    shared = [group for group in asked if group not in keys and len({run.chosen.get(group) for run in runs}) == 1]
    return ", ".join(f"{group}={first[group]}" for group in shared if first[group] not in (None, "none"))


def federations(runs: Sequence[RunFolder], keys: Sequence[str]) -> str:
    """How large the federations are and how they are trained, of what the rows do not say already.

    Clients, rounds and optimizer; where runs differ, all their values.
    """
    said = []
    for name in ("clients", "clients_per_round", "rounds", "optimizer"):
        key = f"federation.{name}"
        values = list(dict.fromkeys(written(run.settings[key]) for run in runs if run.settings.get(key) is not None))
        if values and key not in keys:
            said.append(f"{name.replace('_', ' ')}: {', '.join(values)}")
    return "; ".join(said)


def short(keys: Sequence[str], taken: Iterable[str]) -> list[str]:
    """The ends of dotted keys, whole keys where an end says too little."""
    ends = [key.rpartition(".")[2] for key in keys]
    others = set(taken)
    return [key if ends.count(end) > 1 or end in others else end for key, end in zip(keys, ends, strict=True)]


def methods_beside(run: RunFolder) -> tuple[str, ...]:
    """The methods that ran beside the run's own, by name, in the order of the alphabet: theirs says nothing."""
    return tuple(sorted({_method(key) for key in run.settings if key.startswith(f"{METHODS}.")}))


def _method(key: str) -> str:
    """The method that a key is of, `attribution.METHOD.KEY`; "" of the group itself."""
    return key.split(".")[1] if "." in key else ""


def _differs(key: str, runs: Sequence[RunFolder]) -> bool:
    return len({written(run.settings[key]) if key in run.settings else None for run in runs}) > 1


def _was_set(key: str, run: RunFolder) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in run.overridden)


def _block(key: str) -> str:
    return key.partition(".")[0]


def _in_order(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))
