"""What both `ProvenanceStrategy` say of their recording."""

from __future__ import annotations

from pathlib import Path

from .recorder import Recorder


class Recorded:
    """Of a strategy that records the one that it wraps: where, which rounds, and its end.

    Attributes:
        strategy: the one that is wrapped.
    """

    strategy: object
    _recorder: Recorder

    def __repr__(self) -> str:
        return f"ProvenanceStrategy({type(self.strategy).__name__})"

    @property
    def folder(self) -> Path:
        """Where it is recorded."""
        return self._recorder.folder

    @property
    def recorded(self) -> list[int]:
        """Numbers of the rounds that are recorded; the last may still be on its way to disk (`close`)."""
        return self._recorder.recorded

    @property
    def missed(self) -> dict[int, str]:
        """Why other rounds are not, by number."""
        return self._recorder.missed

    def close(self) -> None:
        """Wait until the last round is on disk, and let others write into the folder.

        `start` does so at its end, and so does the end of the process.
        """
        self._recorder.close()
