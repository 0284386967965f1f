"""Signals that end a command, answered as Ctrl-C is: what was computed is kept, children end, one line says so."""

import signal
import threading
from types import FrameType

NAMES = ("SIGTERM", "SIGHUP")  # of a scheduler or a service, and of a terminal that is closed


class EndedBySignal(KeyboardInterrupt):
    """A signal has come that ends the command; `number` is which."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def answer_signals() -> None:
    """Let the signals that end a process raise `EndedBySignal` in it; one that is ignored (nohup) stays so.

    A second signal ends the process at once, whatever it is at.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise EndedBySignal(number)
