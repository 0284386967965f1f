"""How far a trace is, for whoever shows it: told after each batch, wherever the trace was called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Tell = Callable[[int, int], None]  # inputs traced, and all of them

_watching: ContextVar[Tell | None] = ContextVar("watching", default=None)


@contextmanager
def watched(tell: Tell) -> Iterator[None]:
    """Within the context every trace of this thread tells how far it is."""
    before = _watching.set(tell)
    try:
        yield
    finally:
        _watching.reset(before)


def traced_so_far(done: int, total: int) -> None:
    """Tell whoever watches."""
    tell = _watching.get()
    if tell is not None:
        tell(done, total)
