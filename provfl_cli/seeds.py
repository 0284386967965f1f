"""Everything random in training, derived from the run's seed and from what it is for, never from what ran before."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from .imports import later

if TYPE_CHECKING:
    import torch
else:
    torch = later("torch")


def derived_seed(*parts: int | str) -> int:
    """A seed of 63 bits that depends on all `parts` and nothing else."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A random generator seeded by `derived_seed(*parts)`."""
    return torch.Generator().manual_seed(derived_seed(*parts))


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's own generators, which dropout draws from, for what is computed on a device.

    On the CPU its generator alone: for each kind of device that might be there torch would write down a traceback,
    which takes as long as a step of a small model.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
