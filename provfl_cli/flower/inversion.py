"""How a Flower strategy fuses: recognised by its class and settings, and watched while it does so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from flwr.app import Array, RecordDict
from flwr.serverapp import strategy as flower
from torch import Tensor

from ..errors import InputError
from ..fusion.fedadagrad import FedAdagrad
from ..fusion.fedadam import FedAdam
from ..fusion.fedavg import FedAvg
from ..fusion.fedavgm import FedAvgM
from ..fusion.fedyogi import FedYogi
from ..fusion.fuse import Fusion
from ..fusion.median import Median
from ..fusion.trimmed_mean import TrimmedMean
from ..recording.rounds import NotRecorded
from .choices import ChosenClients, FairAverage, NearestClients
from .messages import EXAMPLES, Reply, weight_of

NOISED = (
    flower.DifferentialPrivacyServerSideFixedClipping,
    flower.DifferentialPrivacyServerSideAdaptiveClipping,
    flower.DifferentialPrivacyClientSideFixedClipping,
    flower.DifferentialPrivacyClientSideAdaptiveClipping,
)
CLIPPING = NOISED[:2]


@dataclass
class StrategyRecord:
    """What was seen of a strategy at work in one round.

    Attributes:
        clip_norm: to which the server clips updates; None: it does not.
        state: the strategy's own state before the round, by our names; empty for most.
        averaged: identities of the contents of the replies that the strategy handed to its aggregation of metrics:
            those that it averaged. None: it did not.
        unnoised: the model before noise was added; None where none is.
    """

    clip_norm: float | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    averaged: frozenset[int] | None = None
    unnoised: Mapping[str, Array] | None = None


def aggregating(strategy: flower.Strategy) -> flower.Strategy:
    """The strategy that aggregates: the innermost one of wrappers that clip and add noise."""
    return aggregating(strategy.strategy) if isinstance(strategy, NOISED) else strategy


def require_known(strategy: flower.Strategy, weight_key: str | None, mismatch: str) -> None:
    """Raise InputError where nothing is known of how a strategy aggregates."""
    if not isinstance(strategy, flower.Strategy):
        kind = type(strategy).__name__
        if hasattr(strategy, "aggregate_fit"):
            raise InputError(
                f"ProvenanceStrategy: {kind} is a strategy of Flower's old interface (flwr.server.strategy): wrap it "
                "in provfl_cli.flower.legacy.ProvenanceStrategy"
            )
        raise InputError(f"ProvenanceStrategy: {kind} is no strategy of flwr.serverapp.strategy: give one")
    inner = aggregating(strategy)
    if isinstance(strategy, NOISED) and isinstance(strategy.strategy, NOISED):
        raise InputError("ProvenanceStrategy: a strategy wrapped twice in differential privacy cannot be inverted")
    if isinstance(inner, flower.FedXgbBagging | flower.FedXgbCyclic):
        raise InputError(
            f"ProvenanceStrategy: {type(inner).__name__} combines trees; only networks' weights are traced"
        )
    if _rule(inner) is None and weight_key is None and mismatch != "row":
        known = ", ".join(sorted(kind.__name__ for kind in RULES))
        raise InputError(
            f"ProvenanceStrategy: it is not known how {type(inner).__name__} combines its clients. If the new model is "
            "the average of the replies weighted by one of their metrics, name that metric: "
            "weight_key='num-examples'. If it is something else, mismatch='row' records what is not their average as a "
            f"row of its own. Known are {known}, and strategies derived from them"
        )


def weight_key_of(strategy: flower.Strategy, declared: str | None) -> str:
    """The metric by which a strategy weighs its replies."""
    return declared or str(getattr(aggregating(strategy), "weighted_by_key", EXAMPLES))


def weighs_by(strategy: flower.Strategy, declared: str | None) -> bool:
    """Whether it is known by which metric a strategy weighs its replies, so that each has to bring it."""
    return declared is not None or _rule(aggregating(strategy)) is not None


def look(strategy: flower.Strategy, server_round: int) -> StrategyRecord:
    """What can be seen of a strategy before it aggregates."""
    clip_norm = float(strategy.clipping_norm) if isinstance(strategy, CLIPPING) else None
    return StrategyRecord(clip_norm, _state(aggregating(strategy), server_round))


@contextmanager
def observed(strategy: flower.Strategy, seen: StrategyRecord) -> Iterator[None]:
    """Watch a strategy aggregate: whom it averages, and its model before noise."""
    inner: Any = aggregating(strategy)
    metrics = getattr(inner, "train_metrics_aggr_fn", None)

    def averaged(contents: list[RecordDict], key: str) -> Any:
        seen.averaged = frozenset(map(id, contents))
        return metrics(contents, key)  # type: ignore[misc]

    def unnoised(server_round: int, replies: Any) -> Any:
        made = aggregate(server_round, replies)
        seen.unnoised = None if made[0] is None else dict(made[0])
        return made

    aggregate = inner.aggregate_train
    watched: dict[str, Callable[..., Any]] = {} if metrics is None else {"train_metrics_aggr_fn": averaged}
    if inner is not strategy:
        watched["aggregate_train"] = unnoised
    with replaced(inner, watched):
        yield


@contextmanager
def replaced(owner: Any, functions: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """An object whose own attributes are these functions within, and as they were afterwards."""
    before = {name: vars(owner)[name] for name in functions if name in vars(owner)}
    vars(owner).update(functions)
    try:
        yield
    finally:
        for name in functions:
            vars(owner).pop(name, None)
        vars(owner).update(before)


def takes_its_own_choice(strategy: flower.Strategy) -> bool:
    """Whether the rule of a strategy itself says what of each reply is taken, from which the strategy averaged."""
    return _rule(aggregating(strategy)) in (_chosen, _bulyan)


def expected(strategy: flower.Strategy, declared: bool, replies: Sequence[Reply], taken: Sequence[bool]) -> Fusion:
    """How the strategy fuses these replies, by its settings of this moment.

    Args:
        strategy: what aggregated.
        declared: whether the average by the declared weight key is to be taken for what the strategy does.
        replies: those that are recorded, in the order of the stack.
        taken: whether the strategy averaged each.

    Raises:
        NotRecorded: it needs a metric that a client has not sent, or could not be watched.
    """
    inner = aggregating(strategy)
    rule = None if declared else _rule(inner)
    try:
        return FedAvg() if rule is None else rule(inner, replies, taken)
    except InputError as error:
        raise NotRecorded(f"{type(inner).__name__}: {error}") from None


Rule = Callable[[Any, Sequence[Reply], Sequence[bool]], Fusion]


def _rule(strategy: flower.Strategy) -> Rule | None:
    """How the nearest known ancestor of a strategy aggregates; None: it has none."""
    return next((RULES[kind] for kind in type(strategy).__mro__ if kind in RULES), None)


def _average(*_: object) -> Fusion:
    return FedAvg()


def momentum(strategy: Any, *_: object) -> Fusion:
    """FedAvgM with the settings of Flower's, old or new."""
    if not strategy.server_opt:
        return FedAvg()
    return FedAvgM(momentum=float(strategy.server_momentum), learning_rate=float(strategy.server_learning_rate))


def adagrad(strategy: Any, *_: object) -> Fusion:
    """FedAdagrad with the settings of Flower's, old or new."""
    return FedAdagrad(eta=float(strategy.eta), tau=float(strategy.tau), beta1=float(strategy.beta_1), initial_v=0.0)


def adam(strategy: Any, *_: object) -> Fusion:
    """FedAdam with the settings of Flower's, old or new."""
    return FedAdam(**_betas(strategy), bias_correction=True)


def yogi(strategy: Any, *_: object) -> Fusion:
    """FedYogi with the settings of Flower's, old or new."""
    return FedYogi(**_betas(strategy))


def _betas(strategy: Any) -> dict[str, Any]:
    return {
        "eta": float(strategy.eta),
        "tau": float(strategy.tau),
        "beta1": float(strategy.beta_1),
        "beta2": float(strategy.beta_2),
        "initial_v": 0.0,
    }


def _median(*_: object) -> Fusion:
    return Median()


def _trimmed(strategy: Any, replies: Sequence[Reply], taken: Sequence[bool]) -> Fusion:
    return TrimmedMean(count=int(strategy.beta * len(replies)))  # rounded as Flower does


def _chosen(strategy: Any, replies: Sequence[Reply], taken: Sequence[bool]) -> Fusion:
    return ChosenClients(taken=_seen(taken))


def _bulyan(strategy: Any, replies: Sequence[Reply], taken: Sequence[bool]) -> Fusion:
    return NearestClients(taken=_seen(taken), keep=sum(taken) - 2 * int(strategy.num_malicious_nodes))


def _seen(taken: Sequence[bool]) -> tuple[bool, ...]:
    if not any(taken):
        raise NotRecorded("it could not be seen which clients the strategy chose")
    return tuple(taken)


def _fair(strategy: Any, replies: Sequence[Reply], taken: Sequence[bool]) -> Fusion:
    losses = tuple(weight_of(reply.metrics, str(strategy.train_loss_key)) for reply in replies)
    return FairAverage(losses=losses, q=float(strategy.q), lipschitz=1 / float(strategy.client_learning_rate))


RULES: dict[type, Rule] = {
    flower.FedAvg: _average,
    flower.FedProx: _average,
    flower.FedAvgM: momentum,
    flower.FedAdagrad: adagrad,
    flower.FedAdam: adam,
    flower.FedYogi: yogi,
    flower.FedMedian: _median,
    flower.FedTrimmedAvg: _trimmed,
    flower.Krum: _chosen,
    flower.MultiKrum: _chosen,
    flower.Bulyan: _bulyan,
    flower.QFedAvg: _fair,
}


def _state(strategy: Any, server_round: int) -> dict[str, Tensor]:
    """A strategy's own state as our fusions name it; momentum points along the update, unlike Flower's in FedAvgM."""
    state = dict[str, Tensor]()
    if isinstance(strategy, flower.FedAvgM) and strategy.momentum_vector is not None:
        names = list(strategy.current_arrays or ())
        for name, value in zip(names, strategy.momentum_vector, strict=True):
            state[f"momentum/{name}"] = -torch.as_tensor(value)
    for kind, values in (("momentum", getattr(strategy, "m_t", None)), ("second", getattr(strategy, "v_t", None))):
        for name, value in (values or {}).items():
            state[f"{kind}/{name}"] = torch.as_tensor(value).clone()  # of this moment
    if state or isinstance(strategy, flower.FedAdam):
        state["round"] = torch.tensor(server_round - 1)  # FedAdam counts Flower's rounds, also where it starts late
    return state
