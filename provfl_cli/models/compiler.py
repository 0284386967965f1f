"""torch's compiler, put off where a library imports it for nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

UTILS = "torch._dynamo.utils"


class _Later(ModuleType):
    """Stands for a module, which is imported when anything of it is asked for but what is there."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(self), name)


@contextmanager
def compiler_put_off() -> Iterator[None]:
    """Within the block, `from torch._dynamo.utils import is_compile_supported` does not import the compiler yet.

    That takes nearly two seconds, and torchvision does so for operators of detection models only. Calling the function
    imports it. Where the compiler has been imported nothing is changed.
    """
    if UTILS in sys.modules:
        yield
        return
    later = _Later(UTILS)
    later.__dict__["is_compile_supported"] = lambda device: _real(later).is_compile_supported(device)
    sys.modules[UTILS] = later
    try:
        yield
    finally:
        _step_aside(later)


def _real(later: ModuleType) -> ModuleType:
    _step_aside(later)
    return import_module(UTILS)


def _step_aside(later: ModuleType) -> None:
    if sys.modules.get(UTILS) is later:
        del sys.modules[UTILS]
