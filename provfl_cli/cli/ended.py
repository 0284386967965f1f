"""Signals that end a command, answered as Ctrl-C is: what was computed is kept, children end, one line says so."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

NAMES = ("SIGTERM", "SIGHUP")  # of a scheduler or a service, and of a terminal that is closed
AGAIN = 0.5  # seconds between two looks whether the command is on its way out

_came: list[int] = []  # numbers of the signals that have come, in their order


class EndedBySignal(KeyboardInterrupt):
    """A signal has come that ends the command; `number` is which."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def answer_signals() -> None:
    """Let the signals that end a process raise `EndedBySignal` in it; one that is ignored (nohup) stays so.

    It is raised wherever the process is at that moment, which may be a place that drops or replaces any exception: a
    callback of a weak reference, as each import has one, or a library's bare `except`. So it is raised again until it
    is on its way out, and `signal_that_came` tells it from what was raised in its stead.

    The same signal for the second time ends the process at once, whatever it is at.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    _came.clear()
    for number in _numbers():
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)
    sys.unraisablehook = _unraisable


def leave_signals() -> None:
    """Let signals end the process at once, as they do where nobody answers them: it has ended, and what came to it."""
    _came.clear()
    for number in _numbers():
        if signal.getsignal(number) == _end:
            signal.signal(number, signal.SIG_DFL)
    if _may_look_again():
        signal.setitimer(signal.ITIMER_REAL, 0)
    if sys.unraisablehook is _unraisable:
        sys.unraisablehook = sys.__unraisablehook__


def signal_that_came() -> EndedBySignal | None:
    """The signal that this command has got; None where none came."""
    return EndedBySignal(_came[0]) if _came else None


def _numbers() -> list[signal.Signals]:
    return [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    _came.append(number)
    if len(_came) > 1:  # on the way out already; raised now, it would break off what ends the children
        return
    if _may_look_again():
        signal.signal(signal.SIGALRM, _look_again)
        signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
    raise EndedBySignal(number)


def _may_look_again() -> bool:
    """Whether the timer is there (not on Windows), and no library's."""
    return hasattr(signal, "SIGALRM") and signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, _look_again)


def _look_again(number: int, frame: FrameType | None) -> None:
    """Raise what was lost; while it is on its way out, whatever runs is called by a handler of an exception."""
    error = sys.exception()
    while error is not None:
        if isinstance(error, EndedBySignal):
            return
        error = error.__context__
    raise EndedBySignal(_came[0])


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """Say nothing of a signal that was raised where exceptions are dropped: it will be raised again."""
    if not isinstance(lost.exc_value, EndedBySignal):
        sys.__unraisablehook__(lost)
