"""Having the system put on the disk what was written."""

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Return when the content of a file, or the entries of a folder, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
