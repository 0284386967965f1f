"""Calls of the tokenizers library with what others wrote: what panics in its Rust code is an error like any other."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PANIC = "PanicException"  # pyo3's, no Exception and in no module that can be imported: known by its name


class TokenizerPanic(ValueError):
    """The tokenizers library gave up in the middle, such as on a pattern that goes back too often."""


@contextmanager
def panics_caught() -> Iterator[None]:
    """Raise TokenizerPanic for a panic within; what the library writes on stderr about it goes nowhere."""
    with _stderr_held() as said:
        try:
            yield
        except BaseException as error:
            if type(error).__name__ != PANIC:
                raise
            said.clear()
            raise TokenizerPanic("the tokenizers library gives up on it") from None


@contextmanager
def _stderr_held() -> Iterator[set[str]]:
    """Keep what is written on the process's stderr until the end; then it is written unless the set was emptied."""
    kept = {"written"}
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    try:
        own = os.dup(2)
    except OSError:  # there is none
        yield kept
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield kept
        finally:
            os.dup2(own, 2)
            if kept:
                file.seek(0)
                with suppress(OSError):
                    os.write(2, file.read())
            os.close(own)
