"""The states of all generators of random numbers that a model may draw from: who draws leaves another state behind."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .structure import Structure


def random_states(structure: Structure, device: torch.device) -> dict[str, Any]:
    """The state of each generator by what it is called: torch's, numpy's, Python's, and those that modules hold."""
    states: dict[str, Any] = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy.random": _state(np.random.mtrand._rand),
        "Python's random": random.getstate(),
    }
    if device.type == "cuda":
        states["torch.cuda"] = torch.cuda.get_rng_state(device).numpy().tobytes()
    return states | {name: _state(generator) for name, generator in structure.generators.items()}


def drawn_from(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Names of the generators whose state has changed."""
    return [name for name, state in after.items() if before.get(name, state) != state]


def _state(generator: Any) -> Any:
    """Something that compares equal as long as nothing was drawn."""
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        kind, keys, *rest = generator.get_state(legacy=True)
        return kind, np.asarray(keys).tobytes(), *rest
    return repr(generator.bit_generator.state)
