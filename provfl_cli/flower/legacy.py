"""`ProvenanceStrategy` for Flower's old interface: `flwr.server.strategy`, `start_server`, `start_simulation`.

    from provfl_cli.flower.legacy import ProvenanceStrategy

    strategy = ProvenanceStrategy(FedAvg(), "provenance", model=Net())
    fl.simulation.start_simulation(client_fn=client_fn, num_clients=10, strategy=strategy)

That interface sends arrays without names, so that these have to be given.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from logging import INFO
from os import PathLike
from typing import TYPE_CHECKING, Any

from flwr.app import Array
from flwr.common import EvaluateIns, EvaluateRes, FitIns, FitRes, Parameters, Scalar
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import Strategy
from flwr.serverapp import strategy as message_strategies

from ..errors import InputError
from .array_names import ArrayNames
from .inversion import replaced
from .journal import brief_reason, train_loss
from .legacy_rules import expected, require_known, state_of
from .messages import EXAMPLES, Node, Reply, log, same_arrays
from .naming import Names
from .recorded import Recorded
from .recorder import Recorder, checked_manner
from .recording import AggregatedRound, AskedRound, check_free, check_replies, counted
from .serialized import shape_of

if TYPE_CHECKING:
    from torch import Tensor, nn

Results = list[tuple[ClientProxy, FitRes]]
Failures = list[tuple[ClientProxy, FitRes] | BaseException]


class ProvenanceStrategy(Recorded, Strategy):
    """A strategy of Flower's old interface that trains as the one it wraps, and records every round into a folder.

    As `provfl_cli.flower.ProvenanceStrategy`, but for the names. Whom the strategy averaged is seen where it hands
    metrics to its `fit_metrics_aggregation_fn`, as Flower's own do, and else told from the model that it made.

    The federation does not tell its strategy when it has ended: the last round is on disk when `close` returns, or the
    process has ended.

    Args:
        strategy: what to wrap; any strategy: its model is compared with what its nearest known ancestor (FedAvg,
            FedProx, FedAvgM, FedAdam, FedAdagrad, FedYogi, FedMedian, FedTrimmedAvg) makes of the clients, else with
            their average by number of examples over all or some of the clients, else with any other combination.
        folder: where to record; made where it is missing.
        model: the model whose arrays are sent, in the order of its `state_dict()` (all, or all but the counters
            `num_batches_tracked`) or of its `parameters()`; it tells parameters from buffers as well.
        names: in place of it the names of the arrays, in the order in which they are sent.
        clients: what clients are called: a mapping from client ids, a function of the client id, or the key of a metric
            that every client returns from `fit`. None: by the number of its partition where Flower simulates, else by
            client id.
        weight_key: declares that the strategy averages by this metric; None: by number of examples.
        mismatch, clients_send, keep, parameters, labels, first_round, strict: as there.

    Raises:
        InputError: as there; neither or both of `model` and `names` are given; the initial parameters of the strategy,
            where it has them, are not as many, or not of the shapes, of the model. Where it has none that is told
            before the first round, or by the first reply.

    Example:
        >>> import tempfile
        >>> from flwr.server.strategy import FedAvg
        >>> ProvenanceStrategy(FedAvg(), tempfile.mkdtemp(), names=["weight", "bias"])
        ProvenanceStrategy(FedAvg)
    """

    strategy: Strategy

    def __init__(
        self,
        strategy: Strategy,
        folder: str | PathLike[str],
        *,
        model: nn.Module | None = None,
        names: Sequence[str] | None = None,
        clients: Names = None,
        weight_key: str | None = None,
        mismatch: str = "refuse",
        clients_send: str = "weights",
        keep: str | int = "all",
        parameters: Collection[str] | nn.Module | None = None,
        labels: Sequence[str] = (),
        first_round: int | None = None,
        strict: bool = False,
    ) -> None:
        if isinstance(strategy, message_strategies.Strategy):
            raise InputError(
                f"legacy.ProvenanceStrategy: {type(strategy).__name__} is a strategy of flwr.serverapp: wrap it in "
                "provfl_cli.flower.ProvenanceStrategy"
            )
        require_known(strategy)
        self._names = ArrayNames.of(model, names)
        manner = checked_manner(model if parameters is None else parameters, clients_send, mismatch)
        initial = getattr(strategy, "initial_parameters", None)
        if initial is not None:
            self._named(initial, "the initial parameters of the strategy")
        self.strategy = strategy
        self.weight_key = weight_key
        who = self._by_partition if clients is None else clients
        self._recorder = Recorder(folder, who, manner, keep, labels, first_round, strict)
        self._proxies: dict[Node, ClientProxy] = {}
        self._asked: AskedRound | None = None
        self._latest: Mapping[str, Array] | None = None
        self._replied = False

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters | None:
        """As the wrapped strategy does.

        Raises:
            InputError: they are not as many, or not of the shapes, of the model.
        """
        parameters = self.strategy.initialize_parameters(client_manager)
        if parameters is not None:
            self._named(parameters, "the initial parameters of the strategy")
        log(INFO, "ProvFL records %s into %s", type(self.strategy).__name__, self.folder)
        return parameters

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """What the wrapped strategy sends; what it begins with is noted.

        Raises:
            InputError: before the first round: the parameters are not as many, or not of the shapes, of the model.
        """
        if parameters.tensors and not self._replied:  # none where the client that was asked for them had none
            self._named(parameters, "the initial parameters")
        self._recorder.guarded(server_round, self._recorder.open)
        instructions = self.strategy.configure_fit(server_round, parameters, client_manager)
        self._asked = None
        if instructions and self._recorder.is_open:
            self._asked = self._recorder.guarded(
                server_round, lambda: self._begin(server_round, self._named(parameters, "the model"), instructions)
            )
        return instructions

    def aggregate_fit(
        self, server_round: int, results: Results, failures: Failures
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """What the wrapped strategy makes of the results, which are kept until they are written to disk.

        Raises:
            InputError: at the first reply: the arrays are not as many, or not of the shapes, of the model.
        """
        if results and not self._replied:
            self._named(results[0][1].parameters, "the first reply")
            self._replied = True
        asked, self._asked = self._asked, None
        if asked is None:
            return self.strategy.aggregate_fit(server_round, results, failures)
        self._recorder.wait()  # at most one round is in memory beside this one
        guarded = self._recorder.guarded
        came = guarded(server_round, lambda: self._take_in(asked, results, failures, server_round), asked)
        averaged: list[frozenset[int]] = []
        metrics = getattr(self.strategy, "fit_metrics_aggregation_fn", None)

        def watched(fitted: list[tuple[int, dict[str, Scalar]]]) -> dict[str, Scalar]:
            averaged.append(frozenset(id(own) for _, own in fitted))
            return {} if metrics is None else metrics(fitted)

        can_watch = came is not None and hasattr(self.strategy, "fit_metrics_aggregation_fn")
        with replaced(self.strategy, {"fit_metrics_aggregation_fn": watched}) if can_watch else nullcontext():
            made, combined = self.strategy.aggregate_fit(server_round, results, failures)
        if came is not None:
            used = {str(proxy.cid) for proxy, result in results if averaged and id(result.metrics) in averaged[-1]}
            aggregated = guarded(server_round, lambda: self._aggregated(asked, *came, used, made, combined), asked)
            if aggregated is not None:
                self._latest = aggregated.result
                self._recorder.submit(server_round, aggregated)
        return made, combined

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """As the wrapped strategy does."""
        return self.strategy.configure_evaluate(server_round, parameters, client_manager)

    def aggregate_evaluate(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: list[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[float | None, dict[str, Scalar]]:
        """As the wrapped strategy does."""
        return self.strategy.aggregate_evaluate(server_round, results, failures)

    def evaluate(self, server_round: int, parameters: Parameters) -> tuple[float, dict[str, Scalar]] | None:
        """As the wrapped strategy does."""
        return self.strategy.evaluate(server_round, parameters)

    def _by_partition(self, node: Node) -> object:
        """The number of a simulated client's partition, by which it stays the same client in another run."""
        partition = getattr(self._proxies.get(node), "partition_id", None)
        return f"node {node}" if partition is None else int(partition)

    def _named(self, parameters: Parameters, whose: str) -> dict[str, Array]:
        """Arrays by their names; InputError where they are not as many, or not of the shapes."""
        arrays = [Array("", (), parameters.tensor_type, data) for data in parameters.tensors]
        names = self._names.fit([shape_of(array) for array in arrays], whose)
        return dict(zip(names, arrays, strict=True))

    def _begin(
        self, server_round: int, previous: Mapping[str, Array], instructions: Sequence[tuple[ClientProxy, FitIns]]
    ) -> AskedRound:
        """What a round begins with, and what each client is sent."""
        number = self._recorder.number(server_round)
        others = dict[Node, Mapping[str, Array]]()
        sent = {id(fit.parameters): fit.parameters for _, fit in instructions}
        records = {key: self._named(parameters, "what a client is sent") for key, parameters in sent.items()}
        for proxy, fit in instructions:
            record = records[id(fit.parameters)]
            if not same_arrays(record, previous):
                others[str(proxy.cid)] = record
        check_free(self._recorder.rounds, number)
        continues = self._latest is not None and same_arrays(previous, self._latest)
        self._proxies = {str(proxy.cid): proxy for proxy, _ in instructions}
        return AskedRound(number, previous, tuple(self._proxies), others, continues)

    def _take_in(
        self, asked: AskedRound, results: Results, failures: Failures, server_round: int
    ) -> tuple[list[Reply], dict[str, Tensor]]:
        """What the clients returned, and the strategy's own state, before it consumes them; who returned nothing, or an
        error, is noted."""
        came = [
            Reply(
                str(proxy.cid),
                self._named(result.parameters, f"client {proxy.cid}"),
                {**result.metrics, EXAMPLES: result.num_examples},
            )
            for proxy, result in results
        ]
        reasons = []
        for failure in failures:
            if isinstance(failure, BaseException):  # Flower does not say whose it is
                reasons.append(brief_reason(str(failure) or type(failure).__name__))
            else:
                asked.dropped[str(failure[0].cid)] = brief_reason(failure[1].status.message)
        silent = set(asked.asked) - {reply.node for reply in came} - asked.dropped.keys()
        asked.dropped.update(dict.fromkeys(sorted(map(str, silent)), " / ".join(dict.fromkeys(reasons)) or "no reply"))
        check_replies(asked, came)
        return came, state_of(self.strategy, list(asked.previous), server_round)

    def _aggregated(
        self,
        asked: AskedRound,
        came: Sequence[Reply],
        state: Mapping[str, Tensor],
        averaged: Collection[str],
        made: Parameters | None,
        metrics: Mapping[str, Any],
    ) -> AggregatedRound:
        """The round as it was aggregated, with whom the strategy averaged and how, by its settings of this moment."""
        declared = self.weight_key is not None
        key = self.weight_key or EXAMPLES
        register = self._recorder.register
        numbers = register.enter({reply.node: reply.metrics for reply in came})
        used = [reply for reply in came if not averaged or reply.node in averaged]
        used.sort(key=lambda reply: numbers[reply.node])
        return AggregatedRound(
            asked=asked,
            replies=tuple(used),
            clients={reply.node: numbers[reply.node] for reply in used},
            left_out=tuple(reply.node for reply in came if reply not in used),
            weights=counted(used, key, register, needed=True),
            fusion=expected(self.strategy, declared, len(used)),
            declared=declared,
            key=key,
            kind=type(self.strategy).__name__,
            clip_norm=None,
            state=state,
            unnoised=None,
            result=None if made is None else self._named(made, "the new model"),
            train_loss=train_loss(metrics),
        )
