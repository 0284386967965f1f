"""Whether a server answers, asked before a library that would retry for half a minute is let loose on it."""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_allowed: ContextVar[bool] = ContextVar("allowed", default=True)


@contextmanager
def without_network() -> Iterator[None]:
    """Within the context no server is asked: what is to be had from one is looked for on this machine alone."""
    before = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(before)


def hub_endpoint() -> str:
    """The address of the Hugging Face hub, or of the mirror that `HF_ENDPOINT` names."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def reachable(url: str, seconds: float = 3.0) -> bool:
    """Return whether `url` answers within `seconds`; a refusal on the way (403, 407) or a server error counts as no."""
    if not _allowed.get():
        return False
    answered: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
                answered.append(True)
        except urllib.error.HTTPError as error:
            answered.append(error.code < 500 and error.code not in (403, 407))
        except (OSError, ValueError):
            answered.append(False)

    # On a thread, since no timeout of Python's bounds the look-up of a name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered == [True]
