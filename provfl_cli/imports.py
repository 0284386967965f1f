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

    _imported: ModuleType | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        return getattr(self._imported or _real(self), name)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (self.__name__,)


def later(module: str) -> ModuleType:
    """The module of that name, imported when anything of it is first asked for; until then `sys.modules` lacks it.

    It keeps out of `sys.modules`, where Python's own lazy modules (`importlib.util.LazyLoader`, `lazy_loader`) stand
    unloaded: torch asks everything there for its file, and so imports it in the middle of its own import. From Python
    3.12 on torch cannot be such a module itself: within its own import it is asked for what it does not have yet, which
    was seen to end in "'_LazyModule' object has no attribute 'Tensor'".
    """
    return _Later(module)


@contextmanager
def put_off(module: str, *functions: str) -> Iterator[None]:
    """Within the block, an import of `module`, and of these `functions` from it, does not import it yet.

    Calling one of the functions imports it, as anything else does that is asked of it. Where `module` has been imported
    nothing is changed. Two libraries need it:

        torchvision 0.29   `torch._dynamo.utils`, torch's compiler, 1.3 seconds of a core: `ops/roi_align.py` takes a
                           function of it at its top, for an operator of detection models, although pull request 8436
                           of pytorch/vision meant to spare this import
        flwr-datasets 0.6  `flwr_datasets.visualization`, matplotlib and seaborn, 1.6 seconds, for plots that nobody
                           here draws: the package's `__init__.py` imports it

    `tests/test_put_off.py` fails as soon as one of them no longer does so: then its block goes, and with the last one
    this function. `lazy_loader` cannot do it: to put off a part of a package it imports the package, which is what
    imports the plots, and what it puts off is imported by the first `from module import name`, as torchvision has it.
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


def _real(later: _Later) -> ModuleType:
    _step_aside(later)
    later._imported = import_module(later.__name__)
    return later._imported


def _step_aside(later: ModuleType) -> None:
    if sys.modules.get(later.__name__) is later:
        del sys.modules[later.__name__]
