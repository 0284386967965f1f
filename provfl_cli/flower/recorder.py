"""The folder of a recorded Flower app while it runs: held, continued, and written into while the next round trains."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Collection, Sequence
from logging import ERROR, INFO, WARNING
from os import PathLike
from pathlib import Path
from typing import TypeVar

import torch
from filelock import BaseFileLock

from ..coverage import listed
from ..errors import InputError, RunError, did_you_mean
from ..processes import one_thread
from ..recording.rounds import NotRecorded, describe, forget, require_keep, require_labels
from ..store.locks import give_back
from ..store.recorded import read_whole
from ..store.rounds import Metrics, read_round, remove_leftovers, stored_rounds
from ..store.tensorfile import Specs
from .journal import note
from .messages import log
from .naming import Names, Register
from .place import RECORDER, check_continues, take
from .place import look as look_at
from .recording import SENT, AggregatedRound, AskedRound, Manner, write_round

T = TypeVar("T")
MISMATCH = ("refuse", "row")


class Recorder:
    """What a wrapped strategy records into.

    A round is written by a thread of its own, while the clients train the next; the next is not aggregated before it
    has ended. So at most one round waits in memory, and everything but `submit`'s thread may use the register.

    Args:
        folder: where to record; made where it is missing.
        names: what clients are called.
        manner: settings that hold for all rounds.
        keep: how many of the last rounds stay on disk: `all`, `last`, or a number.
        labels: the names of the classes.
        first_round: the number of the first round to record, where a folder is continued; None: Flower's own number.
        strict: raise RunError where a round cannot be recorded; then each is written before the next begins.

    Attributes:
        folder: where it is recorded, which is beside the folder asked for where another server holds that.
        recorded: numbers of the rounds that are stored.
        missed: why others are not.
        register: who the clients are.

    Raises:
        InputError: the folder holds rounds and `first_round` does not continue them, or it is no folder for a
            recording, or another server continues it; `keep` or `labels` cannot be.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        names: Names,
        manner: Manner,
        keep: str | int,
        labels: Sequence[str],
        first_round: int | None,
        strict: bool,
    ) -> None:
        require_keep(RECORDER, keep)
        self.folder = Path(folder)
        self.manner = manner
        self.keep = keep
        self.labels = require_labels(RECORDER, labels)
        self.strict = strict
        self.recorded: list[int] = []
        self.missed: dict[int, str] = {}
        self.register = Register(names)
        self._first, self._offset = first_round, 0 if first_round is None else None
        self._history: list[Metrics] = []
        self._ended_with: Specs | None = None
        self._known: dict[str, None] = {}  # names of all arrays that the global model has had, in their order
        self._not_shared: tuple[str, ...] = ()
        self._held: BaseFileLock | None = None
        self._writer: threading.Thread | None = None
        look_at(self.folder, first_round, self._must)

    @property
    def rounds(self) -> Path:
        """Where the rounds are stored."""
        return self.folder / "rounds"

    @property
    def is_open(self) -> bool:
        """Whether the folder is held."""
        return self._held is not None

    @property
    def _must(self) -> bool:
        """Whether the recording may be in no other folder than this one."""
        return self._first is not None or self.strict

    def open(self) -> None:
        """Take the folder, and make it, or continue it: clients that it knows keep their numbers.

        Raises:
            InputError: another server records into the folder, and this one has to continue it, or is strict.
        """
        if self._held is not None:
            return
        self.folder, self._held = take(self.folder, self._must)
        try:
            if not self._history:
                check_continues(self.folder, self._first)
            self.rounds.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.rounds)
            stored = stored_rounds(self.rounds)
            if stored and not self._history:
                self._history += read_round(self.rounds, stored[-1]).history
            known = read_whole(self.folder, every=True)
        except BaseException:
            self._release()
            raise
        if known is not None:
            self.register.numbers |= {name: number for number, name in known.clients.items()}
            self.register.examples |= known.examples
        atexit.register(self._end)

    def close(self) -> None:
        """Wait for the last round, say what there is now, and let others write into the folder."""
        try:
            self.wait()
        finally:
            if self._held is not None:
                atexit.unregister(self._end)
                log(INFO, "ProvFL: %d rounds recorded in %s", len(self.recorded), self.folder)
                if self.missed:
                    missed = ", ".join(map(str, sorted(self.missed)))
                    log(ERROR, "ProvFL: rounds NOT RECORDED: %s (the reasons stand above)", missed)
            self._release()

    def wait(self) -> None:
        """Wait until the round that is being written is on disk."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def number(self, server_round: int) -> int:
        """Under which number a round is recorded."""
        if self._offset is None:
            self._offset = (self._first or server_round) - server_round
        return server_round + self._offset

    def guarded(self, server_round: int, work: Callable[[], T], asked: AskedRound | None = None) -> T | None:
        """Do some of the recording; where it fails say so, and let the federation go on unless it is to be strict."""
        try:
            return work()
        except Exception as error:
            reason = str(error) if isinstance(error, RunError | InputError) else f"{type(error).__name__}: {error}"
            number = self.number(server_round)
            self.missed[number] = reason
            log(ERROR, "ProvFL: round %d is NOT RECORDED: %s", number, reason)
            if asked is not None:
                try:
                    note(self.folder, asked, self.register, reason)
                except OSError:  # the disk is what failed
                    log(ERROR, "ProvFL: %s cannot be written to", self.folder)
            if self.strict:
                raise NotRecorded(f"round {number} cannot be recorded: {reason}") from error
            return None

    def submit(self, server_round: int, aggregated: AggregatedRound) -> None:
        """Write a round: at once where it is to be strict, else in a thread, which the next round waits for."""
        self.wait()
        if self.strict:
            with one_thread():
                self._write(server_round, aggregated)
            return
        threads = torch.get_num_threads()
        begun = threading.Event()

        def write() -> None:
            torch.set_num_threads(1)  # blocks are small, and on a busy machine threads wait for each other
            torch.get_num_threads()  # a thread that asks takes over the number of this moment, for good
            begun.set()
            self._write(server_round, aggregated)

        # No daemon: a process that ends waits for it.
        self._writer = threading.Thread(target=write, name="ProvFL-writer")
        self._writer.start()
        begun.wait()
        torch.set_num_threads(threads)  # threads that are new take the last number that any thread has set

    def _write(self, server_round: int, aggregated: AggregatedRound) -> None:
        self.guarded(server_round, lambda: self._commit(aggregated), aggregated.asked)

    def _commit(self, aggregated: AggregatedRound) -> None:
        """Commit the round, and say who the clients are."""
        asked, register = aggregated.asked, self.register
        chained = asked.continues and self.recorded[-1:] == [asked.number - 1]
        self._known |= dict.fromkeys(asked.previous)
        before = self._ended_with if chained else None
        written = write_round(aggregated, self.rounds, register, self.manner, self._history, before, self._known)
        self._ended_with = written.specs
        self._history.append(written.metrics)
        register.examples |= written.examples
        describe(self.folder, "flower", register.numbers, register.examples, self.labels)
        left_out = (*aggregated.left_out, *written.left_out)
        note(self.folder, asked, register, None, written, list(written.examples), left_out)
        forget(self.rounds, self.keep)
        self.recorded.append(asked.number)
        if asked.dropped:
            why = ", ".join(f"{register.called(node)} ({reason})" for node, reason in asked.dropped.items())
            log(WARNING, "ProvFL: round %d is recorded without %s", asked.number, why)
        if left_out:
            who = listed([register.called(node) for node in left_out])
            log(INFO, "ProvFL: round %d: the strategy left out %s", asked.number, who)
        if written.not_shared != self._not_shared:
            self._not_shared = written.not_shared
            log(INFO, "ProvFL: clients do not share %s: recorded is the rest", listed(written.not_shared) or "nothing")
        if written.difference:
            share = f"{written.difference:.1%}"
            log(WARNING, "ProvFL: round %d: the clients do not explain %s of what it changed", asked.number, share)

    def _end(self) -> None:
        """At the end of a process that has not closed it; what has failed is in the log already."""
        self.wait()
        self._release()

    def _release(self) -> None:
        """Let others write into the folder."""
        if self._held is not None:
            give_back(self._held)
            self._held = None


def checked_manner(parameters: Collection[str] | torch.nn.Module | None, clients_send: str, mismatch: str) -> Manner:
    """How a federation is recorded; InputError where a setting is none of those there are."""
    for setting, value, accepted in (("clients_send", clients_send, SENT), ("mismatch", mismatch, MISMATCH)):
        if value not in accepted:
            raise InputError(f"{RECORDER}: {setting}={value!r}: {did_you_mean(str(value), accepted)}")
    return Manner(parameters, clients_send == "updates", mismatch == "row")
