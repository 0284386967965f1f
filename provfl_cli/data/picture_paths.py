"""The file that a table means by the path of a picture."""

from __future__ import annotations

import filecmp
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError


@dataclass(frozen=True)
class Places:
    """Where the pictures of a table may lie: `beside` it, else counted from `root`, the folder of the data."""

    beside: Path
    root: Path

    def find(self, path: str, where: str) -> Path | None:
        """The picture that a path of a table means, None where there is none; `where` the path stands, for messages.

        Raises:
            InputError: it leads out of the folder of the data, or means two different files.
        """
        matches: list[Path] = []
        leads_away = os.path.isabs(path) or ".." in Path(path).parts
        for place in dict.fromkeys((self.beside, self.root)):
            file = place / path
            if leads_away:
                file = Path(os.path.normpath(file))
            if os.path.isfile(file):
                if leads_away and not self._holds(file):
                    raise InputError(
                        f"{where}: {path} lies outside {self.root}: move the pictures into that folder, or give as "
                        "dataset.path a folder that holds both the table and its pictures"
                    )
                matches.append(file)
        if len(matches) > 1 and not _alike(*matches):
            raise InputError(
                f"{where}: {path} may be {matches[0]} or {matches[1]}, which differ: remove or rename one of them"
            )
        return matches[0] if matches else None

    def _holds(self, file: Path) -> bool:
        """Whether a file lies in the folder of the data, by its name or behind links."""
        return _within(os.path.abspath(file), os.path.abspath(self.root)) or _within(
            os.path.realpath(file), os.path.realpath(self.root)
        )


def _within(file: str, folder: str) -> bool:
    return os.path.commonpath([file, folder]) == folder


def _alike(first: Path, second: Path) -> bool:
    return os.path.samefile(first, second) or filecmp.cmp(first, second, shallow=False)
