"""Python's collector of cycles, in a process whose objects are nearly all its libraries'."""

import atexit
import gc

THRESHOLD = 10_000  # new objects between two collections; Python's own 700 is for small programs


def collect_rarely() -> None:
    """Let this process collect cycles less often, and not when it ends.

    Importing torch and its company makes a million objects that stay: going through them again and again takes a
    quarter of that time, and once more at the end, when the system takes all memory back anyway, half a second.
    """
    gc.set_threshold(THRESHOLD, 10, 10)
    atexit.register(gc.freeze)  # what is frozen is not gone through
