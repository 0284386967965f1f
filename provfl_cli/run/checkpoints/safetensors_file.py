"""Tensors in one `.safetensors` file."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...bounded import Oversized, check_safetensors
from ...errors import InputError


def read(path: Path, what: str) -> dict[str, Tensor]:
    """All tensors; InputError where it is no such file, or a damaged one."""
    try:
        check_safetensors(path)
        with safe_open(path, framework="pt") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118  (it is no mapping)
    except Oversized as error:
        raise InputError(f"{what}: is no safetensors file: {error}") from None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{what}: is no safetensors file: safetensors.torch.save_file(model.state_dict(), 'FILE.safetensors')"
        ) from None
