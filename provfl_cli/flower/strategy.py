"""`ProvenanceStrategy`: any Flower strategy, with every round recorded for `provfl trace`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from logging import ERROR, INFO, WARNING
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import BaseFileLock
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from ..errors import InputError, RunError
from ..processes import one_thread
from ..store.locks import give_back
from ..store.recorded import read_whole
from ..store.rounds import Metrics, read_round, remove_leftovers, stored_rounds
from .inversion import StrategyRecord, look, observed, require_known
from .messages import NotRecorded, log, same_arrays, tensors
from .naming import Names, Register
from .place import check_continues, take
from .place import look as look_at
from .recording import (
    PendingRound,
    begin,
    describe,
    discard,
    finish,
    forget,
    note,
    note_dropouts,
    parameter_names,
    take_in,
)

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")


class ProvenanceStrategy(Strategy):
    """A Flower strategy that trains exactly as the one it wraps, and records every round into a folder.

    The folder is what `provfl trace FOLDER --model module:callable --data module:callable` works on: rounds in ProvFL's
    store, `recorded.json` with the clients' names, and `flower.jsonl` with a line a round: who was asked, who is in it,
    who dropped out and why. Clients that return an error or nothing are dropouts. What of each client the new model is
    made of is stated from the strategy's own settings and state, and compared with the model that it made; where these
    differ by more than rounding the round is not recorded. Put it outermost, around wrappers for differential privacy.

    Known are FedAvg, FedProx, FedAvgM, FedAdam, FedAdagrad, FedYogi, FedMedian, FedTrimmedAvg, Krum, MultiKrum, Bulyan,
    QFedAvg, whatever is derived from them and aggregates as they do, and all of these inside Flower's four wrappers for
    central differential privacy. For any other, `weight_key` declares that it averages by that metric.

    Recording never stops the federation unless `strict` is set: a round that cannot be recorded is left out, the log
    says so and why, and the end of `start` says how many there were. While it records nobody else writes into the
    folder: a second server that is started with the same one records into one beside it, with -2, -3, … behind its
    name, which the log says and `folder` holds; with `first_round` or `strict` it is refused before training.

    Args:
        strategy: what to wrap.
        folder: where to record; made where it is missing.
        names: what clients are called: a mapping from node ids, or the key of a metric that every client sends with its
            model, such as `partition-id`; a whole number there is also the client's number. None: by node id.
        weight_key: declares that the strategy, whatever it is, averages by this metric; None: it is one of those known.
        keep: how many of the last rounds stay on disk: `all`, `last`, or a number. A round takes as much as all its
            clients' models.
        parameters: which arrays are parameters: their names, or the model. None: all but whole numbers and running
            statistics (`running_mean`, `running_var`, `num_batches_tracked`).
        labels: the names of the classes, in the order of the model's outputs.
        first_round: the number of the first round to record, where a folder is continued; None: Flower's own number.
        strict: raise RunError where a round cannot be recorded.

    Raises:
        InputError: it is not known how the strategy aggregates; the folder holds rounds and `first_round` does not
            continue them, or it is no folder for a recording, or another server continues it; `keep` is none of those.

    Example:
        >>> from flwr.serverapp.strategy import FedAvg
        >>> import tempfile
        >>> ProvenanceStrategy(FedAvg(), tempfile.mkdtemp(), names="partition-id")
        ProvenanceStrategy(FedAvg)
    """

    def __init__(
        self,
        strategy: Strategy,
        folder: str | PathLike[str],
        *,
        names: Names = None,
        weight_key: str | None = None,
        keep: str | int = "all",
        parameters: Collection[str] | nn.Module | None = None,
        labels: Sequence[str] = (),
        first_round: int | None = None,
        strict: bool = False,
    ) -> None:
        require_known(strategy, weight_key)
        if keep not in ("all", "last") and not (type(keep) is int and keep >= 1):
            raise InputError(f"ProvenanceStrategy: keep={keep!r}: all, last, or the number of last rounds to keep")
        self.strategy = strategy
        self.folder = Path(folder)
        self.weight_key = weight_key
        self.keep = keep
        self.parameters = parameters
        self.labels = _different(labels)
        self.strict = strict
        self.recorded: list[int] = []
        self.missed: dict[int, str] = {}
        self._configure, self._aggregate = strategy.configure_train, strategy.aggregate_train
        self._first, self._offset = first_round, 0 if first_round is None else None
        self._pending: PendingRound | None = None
        self._history: list[Metrics] = []
        self._latest: ArrayRecord | None = None
        self._register = Register(names)
        self._held: BaseFileLock | None = None
        look_at(self.folder, first_round, self._must)

    def __repr__(self) -> str:
        return f"ProvenanceStrategy({type(self.strategy).__name__})"

    def summary(self) -> None:
        """Log what is recorded where, and the wrapped strategy's own summary."""
        log(INFO, "\t├──> ProvFL records %s into %s", type(self.strategy).__name__, self.folder)
        self.strategy.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """What the wrapped strategy sends; what it begins with is noted."""
        before = self._guarded(server_round, lambda: tensors(arrays))  # first: a strategy may change its arrays
        self._guarded(server_round, self._open)  # where it was not started by `start`
        messages = list(self._configure(server_round, arrays, config, grid))
        self._pending = None
        if messages and before is not None and self._held is not None:
            number = self._number(server_round)
            self._pending = self._guarded(
                server_round,
                lambda: begin(self._rounds, number, before, arrays, messages, self._key, self._chained(number, arrays)),
            )
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """What the wrapped strategy makes of the replies; they are written to disk before it consumes them."""
        replies = list(replies)
        pending, self._pending = self._pending, None
        if pending is None:
            return self._aggregate(server_round, replies)
        try:
            seen = self._guarded(server_round, lambda: self._take_in(pending, server_round, replies), pending)
            with observed(self.strategy, seen) if seen is not None else nullcontext():
                arrays, metrics = self._aggregate(server_round, replies)
            if seen is not None:
                self._guarded(server_round, lambda: self._finish(pending, seen, arrays, metrics), pending)
            self._latest = arrays
            return arrays, metrics
        finally:
            discard(pending)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As the wrapped strategy does."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """As the wrapped strategy does."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the federation, by the wrapped strategy's own `start` where it has one.

        Raises:
            InputError: another server records into the folder, and this one has to continue it, or is strict.
        """
        self._open()
        own = type(self.strategy).start is not Strategy.start
        run = self.strategy.start if own else super().start
        if own:  # its loop calls its own methods: let it come by here
            vars(self.strategy).update(configure_train=self.configure_train, aggregate_train=self.aggregate_train)
        try:
            return run(grid, initial_arrays, num_rounds, timeout, train_config, evaluate_config, evaluate_fn)
        finally:
            if own:
                del vars(self.strategy)["configure_train"], vars(self.strategy)["aggregate_train"]
            self._conclude()
            self._close()

    @property
    def _key(self) -> str | None:
        return getattr(self.strategy, "arrayrecord_key", None)

    @property
    def _rounds(self) -> Path:
        return self.folder / "rounds"

    @property
    def _must(self) -> bool:
        """Whether the recording may be in no other folder than this one."""
        return self._first is not None or self.strict

    def _open(self) -> None:
        """Take the folder, and make it, or continue it: clients that it knows keep their numbers."""
        if self._held is not None:
            return
        self.folder, self._held = take(self.folder, self._must)
        try:
            if not self._history:
                check_continues(self.folder, self._first)
            self._rounds.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self._rounds)
            stored = stored_rounds(self._rounds)
            if stored and not self._history:
                self._history += read_round(self._rounds, stored[-1]).history
            known = read_whole(self.folder, every=True)
        except BaseException:
            self._close()
            raise
        if known is not None:
            self._register.numbers |= {name: number for number, name in known.clients.items()}
            self._register.examples |= known.examples

    def _close(self) -> None:
        """Let others write into the folder."""
        if self._held is not None:
            give_back(self._held)
            self._held = None

    def _number(self, server_round: int) -> int:
        """Under which number a round is recorded."""
        if self._offset is None:
            self._offset = (self._first or server_round) - server_round
        return server_round + self._offset

    def _chained(self, number: int, arrays: ArrayRecord) -> bool:
        """Whether a round begins with what the round stored before it ended with."""
        if self._latest is None or same_arrays(arrays, self._latest):
            return self._latest is not None and self.recorded[-1:] == [number - 1]
        log(
            WARNING,
            "ProvFL: the global model was changed between round %d and %d; what changed it is in neither of their "
            "records. If it is another strategy, wrap that one in ProvenanceStrategy.",
            number - 1,
            number,
        )
        return False

    def _take_in(self, pending: PendingRound, server_round: int, replies: Sequence[Message]) -> StrategyRecord:
        """Keep what the clients returned, and look at the strategy before it aggregates."""
        note_dropouts(pending, replies)
        take_in(pending, replies, self._rounds, self._register, self._key)
        return look(self.strategy, server_round)

    def _finish(
        self, pending: PendingRound, seen: StrategyRecord, arrays: ArrayRecord | None, metrics: MetricRecord | None
    ) -> None:
        """Commit the round, and say who the clients are."""
        with one_thread():  # blocks are small, and on a busy machine threads wait for each other
            self._commit(pending, seen, arrays, metrics)

    def _commit(
        self, pending: PendingRound, seen: StrategyRecord, arrays: ArrayRecord | None, metrics: MetricRecord | None
    ) -> None:
        names = parameter_names(pending.previous, self.parameters)
        entry, examples = finish(
            pending, self.strategy, self.weight_key, seen, arrays, metrics, names, self._register, self._history
        )
        self._history.append(entry)
        self._register.examples |= examples
        describe(self.folder, self._register, self.labels)
        note(self.folder, pending, self._register, None)
        forget(self._rounds, self.keep)
        self.recorded.append(pending.number)
        if pending.dropped:
            log(
                WARNING,
                "ProvFL: round %d is recorded without %s",
                pending.number,
                ", ".join(f"{self._register.called(node)} ({why})" for node, why in pending.dropped.items()),
            )

    def _guarded(self, server_round: int, work: Callable[[], T], pending: PendingRound | None = None) -> T | None:
        """Do some of the recording; where it fails say so, and let the federation go on unless it is to be strict."""
        try:
            return work()
        except Exception as error:
            reason = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
            number = self._number(server_round)
            self.missed[number] = reason
            log(ERROR, "ProvFL: round %d is NOT RECORDED: %s", number, reason)
            if pending is not None:
                try:
                    note(self.folder, pending, self._register, reason)
                except OSError:  # the disk is what failed
                    log(ERROR, "ProvFL: %s cannot be written to", self.folder)
            if self.strict:
                raise NotRecorded(f"round {number} cannot be recorded: {reason}") from error
            return None

    def _conclude(self) -> None:
        """Say what there is now."""
        log(INFO, "ProvFL: %d rounds recorded in %s", len(self.recorded), self.folder)
        if self.missed:
            missed = ", ".join(map(str, sorted(self.missed)))
            log(ERROR, "ProvFL: rounds NOT RECORDED: %s (the reasons stand above)", missed)


def _different(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels; InputError where one is there twice."""
    for label in labels:
        if list(labels).count(label) > 1:
            raise InputError(f"ProvenanceStrategy: labels: {label!r} is there twice: classes need different names")
    return tuple(labels)
