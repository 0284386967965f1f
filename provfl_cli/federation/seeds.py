"""Everything random in training, derived from the run's seed and from what it is for, never from what ran before."""

from __future__ import annotations

import hashlib

import torch


def derived_seed(*parts: int | str) -> int:
    """A seed of 63 bits that depends on all `parts` and nothing else."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A random generator seeded by `derived_seed(*parts)`."""
    return torch.Generator().manual_seed(derived_seed(*parts))


def choose_clients(available: int, wanted: int | None, seed: int, number: int) -> list[int]:
    """Positions of the clients that train in round `number`, ascending: `wanted` of those `available`, or all."""
    if wanted is None or wanted == available:
        return list(range(available))
    order = torch.randperm(available, generator=generator(seed, "choice", number))
    return sorted(order[:wanted].tolist())
