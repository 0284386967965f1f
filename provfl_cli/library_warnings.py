"""Warnings of libraries that say nothing to whoever traces: of how they compute inside, or of how a model was built."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

IGNORED = (  # how the messages begin
    r"`torch\.jit\.\w+` is (deprecated|not supported)",  # torch.func uses it where a call has no rule of its own
    r"LSTM with projections is not supported with oneDNN",  # it is computed otherwise, and right
    r"`torch\.nn\.utils\.\w+` is deprecated",  # in the model, which is the user's
)


@contextmanager
def library_warnings_ignored() -> Iterator[None]:
    """Within the context the `IGNORED` warnings are not shown; all others are as before."""
    with warnings.catch_warnings():
        for message in IGNORED:
            warnings.filterwarnings("ignore", message=message)
        yield
