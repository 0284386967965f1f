"""What a repair needs of a federation, whoever trained it: its rounds, its clients, how it is fused."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..attribution.removed import Server
from ..errors import InputError
from ..federation.client import steps_made
from ..fusion.privacy import NoPrivacy
from ..store.matching_tensors import check_tensors
from ..store.recorded import check_names
from ..store.rounds import Round, read_round, stored_rounds
from .open_recording import recorded_fusion
from .open_run import OpenFederation
from .place import client_number, require_recorded

RUN = "run"


@dataclass(frozen=True)
class Repairable:
    """What a repair needs of a federation, whoever trained it.

    Attributes:
        folder: of the run or the recording.
        source: `RUN`, or what recorded it.
        names: of the clients by number, where they have any.
        known: numbers of all clients.
        rounds: numbers of the rounds that are there, ascending.
        read: opens one.
        server: how rounds are fused again; None: not known.
        opened: the run, or the recording with a model and inputs; None: there are none.
        faulty: planted clients of a run.
    """

    folder: Path
    source: str
    names: Mapping[int, str]
    known: Collection[int]
    rounds: tuple[int, ...]
    read: Callable[[int], Round]
    server: Server | None
    opened: OpenFederation | None = None
    faulty: tuple[int, ...] = ()

    def since(self, first: int, way: str) -> list[Round]:
        """The rounds from `first` to the last; InputError, as of the `way` that needs them, where one was not kept."""
        missing = [number for number in range(first, self.rounds[-1] + 1) if number not in self.rounds]
        if missing:
            kept = ", ".join(map(str, self.rounds))
            hint = "a recording keeps all where keep is not set"
            if self.source == RUN:
                also = " or provenance.scope=lineage the sums over all" if way == "lineage" else ""
                hint = f"store.keep=all keeps all{also}"
            raise InputError(f"--how {way}: round {missing[0]} is needed and was not kept (there are {kept}): {hint}")
        return [self.read(number) for number in range(first, self.rounds[-1] + 1)]

    def clients(self, words: Sequence[str]) -> tuple[int, ...]:
        """Numbers of the clients that are called so; `faulty` names those that a run has planted."""
        if list(words) == ["faulty"] and "faulty" not in self.names.values():
            if not self.faulty:
                raise InputError("--without faulty: no client is known to be: name them, such as --without 0,4")
            return self.faulty
        return tuple(sorted({client_number(word, self.names, self.known) for word in words}))


def of_opened(opened: OpenFederation, source: str) -> Repairable:
    """A run, or a recording opened with its model."""
    sharing = opened.sharing
    if sharing is not None and sharing.private:
        raise InputError(
            f"{opened.folder}: {sharing.private[0]} and more of its model are private to each client, so that there is "
            "no global model to repair"
        )
    settings = opened.settings

    def steps(stored: Round) -> Sequence[int]:
        return () if settings is None else steps_made(opened.examples, stored, settings.federation, settings.seed)

    server = None if opened.fusion is None else Server(opened.fusion, opened.privacy, opened.seed, steps)
    if not opened.rounds:
        opened.round(None)  # says why
    return Repairable(
        opened.folder,
        source,
        opened.client_names,
        opened.examples,
        opened.rounds,
        opened.round,
        server,
        opened,
        opened.faulty,
    )


def of_rounds(folder: Path) -> Repairable:
    """A recording of which nothing is given but its rounds."""
    recorded = require_recorded(folder)
    fusion = recorded_fusion(folder, recorded)

    def read(number: int) -> Round:
        stored = read_round(folder / "rounds", number)
        check_names(recorded.clients, stored.clients, stored.names, stored.folder)
        check_tensors(stored)
        return stored

    return Repairable(
        folder,
        recorded.source,
        recorded.clients,
        recorded.examples,
        tuple(stored_rounds(folder / "rounds")),
        read,
        None if fusion is None else Server(fusion, NoPrivacy(), 0, lambda _: ()),
    )
