"""`ProvenanceStrategy`: any Flower strategy, with every round recorded for `provfl trace`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from logging import INFO, WARNING
from os import PathLike
from typing import TYPE_CHECKING, Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from ..recording.rounds import NotRecorded
from .inversion import (
    StrategyRecord,
    aggregating,
    expected,
    look,
    observed,
    replaced,
    require_known,
    takes_its_own_choice,
    weighs_by,
    weight_key_of,
)
from .journal import brief_reason, train_loss
from .messages import Node, Reply, arrays_of, log, metrics_of, same_arrays
from .naming import Names
from .recorded import Recorded
from .recorder import Recorder, checked_manner
from .recording import AggregatedRound, AskedRound, check_free, check_replies, counted

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class _Arrived:
    """Replies of a round before they are aggregated, the messages' contents, and what is seen of the strategy."""

    replies: list[Reply]
    contents: dict[Node, RecordDict]
    seen: StrategyRecord


class ProvenanceStrategy(Recorded, Strategy):
    """A Flower strategy that trains exactly as the one it wraps, and records every round into a folder.

    The folder is what `provfl trace FOLDER --model module:callable --data module:callable` works on: rounds in ProvFL's
    store, `recorded.json` with the clients' names, and `flower.jsonl` with a line a round: who was asked, who is in it,
    who dropped out and why, whom the strategy left out. Who was averaged is observed. What of each client the new model
    is made of is stated from the strategy's own settings and state, and compared with the model that it made; where
    these differ by more than rounding the round is not recorded, unless `mismatch` says otherwise. Put it outermost,
    around wrappers for differential privacy.

    Known are FedAvg, FedProx, FedAvgM, FedAdam, FedAdagrad, FedYogi, FedMedian, FedTrimmedAvg, Krum, MultiKrum, Bulyan,
    QFedAvg, whatever is derived from them and aggregates as they do or combines the clients linearly, and all of these
    inside Flower's four wrappers for central differential privacy. For any other, `weight_key` declares that it
    averages by that metric, or `mismatch="row"` that what is no average shall have a row of its own.

    Recording never stops the federation unless `strict` is set: a round that cannot be recorded is left out, the log
    says so and why, and the end of `start` says how many there were. Rounds are written while the next one trains.
    While it records nobody else writes into the folder: a second server that is started with the same one records into
    one beside it, with -2, -3, … behind its name, which the log says and `folder` holds; with `first_round` or `strict`
    it is refused before training.

    Args:
        strategy: what to wrap.
        folder: where to record; made where it is missing.
        names: what clients are called: a mapping from node ids, a function of the node id, or the key of a metric that
            every client sends with its model, such as `partition-id`; a whole number from the function or there is also
            the client's number. None: by node id.
        weight_key: declares that the strategy, whatever it is, averages by this metric; None: it is one of those known.
        mismatch: where the new model is not what the strategy is expected to make of the clients: `refuse` the round,
            or `row`, to give the difference a row of its own (`difference`), which no client is credited with.
        clients_send: `weights`, or `updates` where clients return how far their weights are from those they were sent.
        keep: how many of the last rounds stay on disk: `all`, `last`, or a number. A round takes as much as all its
            clients' models.
        parameters: which arrays are parameters: their names, or the model. None: all but whole numbers and running
            statistics (`running_mean`, `running_var`, `num_batches_tracked`).
        labels: the names of the classes, in the order of the model's outputs.
        first_round: the number of the first round to record, where a folder is continued; None: Flower's own number.
        strict: raise RunError where a round cannot be recorded; rounds are then written before the next one begins.

    Raises:
        InputError: it is not known how the strategy aggregates; the folder holds rounds and `first_round` does not
            continue them, or it is no folder for a recording, or another server continues it; `keep`, `mismatch` or
            `clients_send` is none of those.

    Example:
        >>> from flwr.serverapp.strategy import FedAvg
        >>> import tempfile
        >>> ProvenanceStrategy(FedAvg(), tempfile.mkdtemp(), names="partition-id")
        ProvenanceStrategy(FedAvg)
    """

    strategy: Strategy

    def __init__(
        self,
        strategy: Strategy,
        folder: str | PathLike[str],
        *,
        names: Names = None,
        weight_key: str | None = None,
        mismatch: str = "refuse",
        clients_send: str = "weights",
        keep: str | int = "all",
        parameters: Collection[str] | nn.Module | None = None,
        labels: Sequence[str] = (),
        first_round: int | None = None,
        strict: bool = False,
    ) -> None:
        manner = checked_manner(parameters, clients_send, mismatch)
        require_known(strategy, weight_key, mismatch)
        self.strategy = strategy
        self.weight_key = weight_key
        self._recorder = Recorder(folder, names, manner, keep, labels, first_round, strict)
        self._configure, self._aggregate = strategy.configure_train, strategy.aggregate_train
        self._asked: AskedRound | None = None
        self._sent: list[Metadata] = []  # Flower gives messages their ids when it sends them
        self._latest: ArrayRecord | None = None

    def summary(self) -> None:
        """Log what is recorded where, and the wrapped strategy's own summary."""
        log(INFO, "\t├──> ProvFL records %s into %s", type(self.strategy).__name__, self.folder)
        self.strategy.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """What the wrapped strategy sends; what it begins with is noted."""
        before = ArrayRecord(dict(arrays))  # first: a strategy may change its arrays
        self._recorder.guarded(server_round, self._recorder.open)  # where it was not started by `start`
        messages = list(self._configure(server_round, arrays, config, grid))
        self._asked = None
        if messages and self._recorder.is_open:
            self._asked = self._recorder.guarded(server_round, lambda: self._begin(server_round, before, messages))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """What the wrapped strategy makes of the replies, which are kept until they are written to disk."""
        replies = list(replies)
        asked, self._asked = self._asked, None
        if asked is None:
            return self._aggregate(server_round, replies)
        self._recorder.wait()  # at most one round is in memory beside this one
        guarded = self._recorder.guarded
        came = guarded(server_round, lambda: self._take_in(asked, replies, look(self.strategy, server_round)), asked)
        with observed(self.strategy, came.seen) if came is not None else nullcontext():
            arrays, metrics = self._aggregate(server_round, replies)
        if came is not None:
            aggregated = guarded(server_round, lambda: self._aggregated(asked, came, arrays, metrics), asked)
            if aggregated is not None:
                self._recorder.submit(server_round, aggregated)
        self._latest = None if arrays is None else ArrayRecord(dict(arrays))
        return arrays, metrics

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
        self._recorder.open()
        own = type(self.strategy).start is not Strategy.start
        run = self.strategy.start if own else super().start
        # Its loop calls its own methods: let it come by here.
        ours: dict[str, Callable[..., Any]] = {}
        if own:
            ours = {"configure_train": self.configure_train, "aggregate_train": self.aggregate_train}
        try:
            with replaced(self.strategy, ours):
                return run(grid, initial_arrays, num_rounds, timeout, train_config, evaluate_config, evaluate_fn)
        finally:
            self.close()

    @property
    def _key(self) -> str | None:
        return getattr(self.strategy, "arrayrecord_key", None)

    def _begin(self, server_round: int, arrays: ArrayRecord, messages: Sequence[Message]) -> AskedRound:
        """What a round begins with, and what each node is sent.

        Raises:
            NotRecorded: a round of that number is stored, or what nodes are sent is not of the model.
        """
        number = self._recorder.number(server_round)
        others = dict[Node, Mapping[str, Array]]()
        same = dict[int, bool]()  # messages of a round mostly share their content
        for message in messages:
            sent = arrays_of(message.content, self._key)
            if id(sent) not in same:
                if not sent.keys() <= arrays.keys():
                    raise NotRecorded("clients are sent other arrays than those of the global model")
                same[id(sent)] = same_arrays(sent, arrays)
            if not same[id(sent)]:
                others[message.metadata.dst_node_id] = dict(sent)
        check_free(self._recorder.rounds, number)
        continues = self._latest is not None and same_arrays(arrays, self._latest)
        if self._latest is not None and not continues:
            log(
                WARNING,
                "ProvFL: the global model was changed between round %d and %d; what changed it is in neither of their "
                "records. If it is another strategy, wrap that one in ProvenanceStrategy.",
                number - 1,
                number,
            )
        self._sent = [message.metadata for message in messages]
        nodes = tuple(message.metadata.dst_node_id for message in messages)
        return AskedRound(number, arrays, nodes, others, continues)

    def _take_in(self, asked: AskedRound, replies: Sequence[Message], seen: StrategyRecord) -> _Arrived:
        """What the clients returned, before the strategy consumes it; who returned nothing, or an error, is noted."""
        nodes = {sent.message_id: sent.dst_node_id for sent in self._sent if sent.message_id}
        came, contents = list[Reply](), dict[Node, RecordDict]()
        silent: dict[Node, str] = dict.fromkeys(asked.asked, "no reply")
        for reply in replies:
            # Of a node that is gone the superlink itself says so: then the reply is not from that node.
            node = nodes.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)
            silent.pop(node, None)
            if reply.has_error():
                asked.dropped[node] = brief_reason(str(reply.error.reason))
            else:
                arrays = dict(arrays_of(reply.content, self._key))
                came.append(Reply(reply.metadata.src_node_id, arrays, metrics_of(reply.content)))
                contents[reply.metadata.src_node_id] = reply.content
        asked.dropped |= silent
        check_replies(asked, came)
        return _Arrived(came, contents, seen)

    def _aggregated(
        self, asked: AskedRound, came: _Arrived, arrays: ArrayRecord | None, metrics: MetricRecord | None
    ) -> AggregatedRound:
        """The round as it was aggregated, with whom the strategy averaged and how, by its settings of this moment."""
        seen = came.seen
        declared = self.weight_key is not None
        key = weight_key_of(self.strategy, self.weight_key)
        averaged = {node for node, content in came.contents.items() if id(content) in (seen.averaged or ())}
        watched = seen.averaged is not None and len(averaged) == len(seen.averaged) > 0
        own_choice = not declared and takes_its_own_choice(self.strategy)
        # A strategy may have given clients other weights, or taken their metrics away.
        weighed = [
            Reply(reply.node, reply.arrays, {**reply.metrics, **metrics_of(came.contents[reply.node])})
            for reply in came.replies
        ]
        used = [reply for reply in weighed if own_choice or not watched or reply.node in averaged]
        register = self._recorder.register
        numbers = register.enter({reply.node: reply.metrics for reply in weighed})
        used.sort(key=lambda reply: numbers[reply.node])
        taken = [reply.node in averaged for reply in used]
        return AggregatedRound(
            asked=asked,
            replies=tuple(used),
            clients={reply.node: numbers[reply.node] for reply in used},
            left_out=tuple(reply.node for reply in weighed if reply not in used),
            weights=counted(used, key, register, needed=weighs_by(self.strategy, self.weight_key)),
            fusion=expected(self.strategy, declared, used, taken),
            declared=declared,
            key=key,
            kind=type(aggregating(self.strategy)).__name__,
            clip_norm=seen.clip_norm,
            state=seen.state,
            unnoised=seen.unnoised,
            result=None if arrays is None else dict(arrays),
            train_loss=train_loss(metrics),
        )
