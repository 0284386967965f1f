"""Modules that a library imports for nothing, put off until something of them is asked for.

    torchvision 0.29   `torch._dynamo.utils`, torch's compiler, 1.3 seconds: `ops/roi_align.py` takes one function of it
                       at its top, for an operator of detection models; pull request 8436 of pytorch/vision meant to
                       spare importing it
    flwr-datasets 0.6  `flwr_datasets.visualization`, 1.6 seconds: matplotlib and seaborn, for plots that are not drawn
                       here; its `__init__.py` imports it

The seconds are of one core. `tests/test_put_off.py` fails as soon as one of the libraries no longer does so: then its
`put_off` goes, and with the last one this file. `lazy_loader`, which serves everywhere else, cannot do it: to put off a
part of a package it imports the package, which is what imports the plots, and what it puts off is imported by the first
`from module import name`, which is what torchvision does.
"""

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
