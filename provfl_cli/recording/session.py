"""A recording while it is made: its folder, who its clients are, and which of its rounds are recorded or missed."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import BaseFileLock

from ..store.locks import give_back
from ..store.recorded import read_whole
from ..store.rounds import Metrics, read_round, remove_leftovers, stored_rounds
from ..store.tensorfile import Specs
from .place import check_continues, look, take
from .rounds import describe, forget, note


class Recording:
    """What one server records into one folder.

    Args:
        recorder: what the user calls the recorder, for messages.
        source: what rounds are said to come from, such as `nvflare`; the journal is called after it.
        folder: where to record; made where it is missing.
        keep: how many of the last rounds stay on disk: `all`, `last`, or a number.
        labels: the names of the classes.
        first_round: number of the first round, where a folder is continued; None: it is new.
        must: the recording may be in no other folder.

    Attributes:
        folder: where it is recorded in the end: beside the folder where another server records into that.
        numbers: the number of each client by its name.
        examples: training examples of each client in the latest round in which it took part, by number.
        history: metrics of the rounds so far.
        specs: types and shapes of the model that the round stored last ended with.
        recorded: numbers of the rounds that this server has recorded.
        missed: why each other round is not, by number.
    """

    def __init__(
        self,
        recorder: str,
        source: str,
        folder: Path,
        *,
        keep: str | int,
        labels: Sequence[str],
        first_round: int | None,
        must: bool,
    ) -> None:
        self.recorder, self.source, self.folder = recorder, source, folder
        self.keep, self.labels, self.must = keep, tuple(labels), must or first_round is not None
        self.first_round = first_round
        self.numbers: dict[str, int] = {}
        self.examples: dict[int, int] = {}
        self.history: list[Metrics] = []
        self.specs: Specs = {}
        self.recorded: list[int] = []
        self.missed: dict[int, str] = {}
        self._held: BaseFileLock | None = None

    @property
    def is_open(self) -> bool:
        """Whether the folder is held."""
        return self._held is not None

    @property
    def rounds(self) -> Path:
        """Where the rounds are."""
        return self.folder / "rounds"

    @property
    def arrivals(self) -> Path:
        """Where what clients return waits until the round is fused."""
        return self.folder / ".arrivals"

    def open(self) -> None:
        """Take the folder, and make it, or continue it: clients that it knows keep their numbers.

        Raises:
            InputError: the folder cannot be recorded into.
        """
        look(self.recorder, self.folder, self.first_round, self.must)
        self.folder, self._held = take(self.recorder, self.folder, self.must)
        try:
            check_continues(self.recorder, self.folder, self.first_round)
            self.rounds.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.rounds)
            if stored := stored_rounds(self.rounds):
                self.history += read_round(self.rounds, stored[-1]).history
            known = read_whole(self.folder, every=True)
        except BaseException:
            self.close()
            raise
        if known is not None:
            self.numbers |= {name: number for number, name in known.clients.items()}
            self.examples |= known.examples

    def close(self) -> None:
        """Let others write into the folder."""
        if self._held is not None:
            give_back(self._held)
            self._held = None

    def enter(self, names: Collection[str]) -> dict[str, int]:
        """The numbers of clients by their names; new ones get the next, `site-2` before `site-10`."""
        for name in sorted(names, key=_by_numbers):
            self.numbers.setdefault(name, max(self.numbers.values(), default=-1) + 1)
        return {name: self.numbers[name] for name in names}

    def stored(self, entry: Metrics, examples: Mapping[int, int]) -> None:
        """A round is on disk: note its metrics, and the training examples of its clients."""
        self.history.append(entry)
        self.examples |= examples
        describe(self.folder, self.source, self.numbers, self.examples, self.labels)
        forget(self.rounds, self.keep)
        self.recorded.append(entry.round)

    def note(self, line: Mapping[str, Any]) -> None:
        """Add a line to the journal."""
        note(self.folder / f"{self.source}.jsonl", line)


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """A key by which numbers in names are in the order of numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]{1,18})", name)]
