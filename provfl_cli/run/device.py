"""The device that a configuration asks for."""

from __future__ import annotations

import torch

from ..errors import InputError


def choose_device(name: str) -> torch.device:
    """`auto` is the first of cuda, mps, cpu that this machine has.

    Raises:
        InputError: the device is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available[name]:
        there = " or ".join(kind for kind, has in available.items() if has)
        raise InputError(f"device={name}: this machine has none; device=auto or device={there}")
    return torch.device(name)


def device_like(name: str) -> torch.device:
    """The device of that name, or the best there is where this machine has none of that kind."""
    try:
        return choose_device(name)
    except InputError:
        return choose_device("auto")
