"""Modules put off until something of them is asked for: heavy ones, and those that a library imports for nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


class _Later(ModuleType):
    """Stands for a module, which is imported when anything of it is asked for but what is there."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(self), name)


def later(module: str) -> ModuleType:
    """The module of that name, imported when anything of it is first asked for; until then `sys.modules` lacks it.

    For what imports torch itself. What stands in `sys.modules` unloaded, as `lazy_loader` leaves it, torch would import
    in the middle of its own import, since it asks everything there for its file.
    """
    return _Later(module)


@contextmanager
def put_off(module: str, *functions: str) -> Iterator[None]:
    """Within the block, an import of `module`, and of these `functions` from it, does not import it yet.

    Calling one of the functions imports it, as anything else does that is asked of it. Where `module` has been imported
    nothing is changed.
    """
    if module in sys.modules:
        yield
        return
    later = _Later(module)
    for name in functions:
        later.__dict__[name] = lambda *values, name=name, **named: getattr(_real(later), name)(*values, **named)
    sys.modules[module] = later
    try:
        yield
    finally:
        _step_aside(later)


def _real(later: ModuleType) -> ModuleType:
    _step_aside(later)
    return import_module(later.__name__)


def _step_aside(later: ModuleType) -> None:
    if sys.modules.get(later.__name__) is later:
        del sys.modules[later.__name__]
