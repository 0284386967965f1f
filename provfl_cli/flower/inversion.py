"""What of each client a Flower strategy's new model is made of: recognised, stated, and compared with its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp import strategy as flower
from torch import Tensor

from ..errors import InputError
from ..fusion.decomposition import Decomposition, Multiplier
from ..fusion.fedadagrad import FedAdagrad
from ..fusion.fedadam import FedAdam
from ..fusion.fedavg import FedAvg
from ..fusion.fedavgm import FedAvgM
from ..fusion.fedyogi import FedYogi
from ..fusion.fuse import Fusion, FusionResult, Shares, combined, fuse
from ..fusion.median import Median
from ..fusion.trimmed_mean import TrimmedMean
from ..fusion.updates import ReturnedModels, Updates, norms, unclipped
from .choices import ChosenClients, FairAverage, NearestClients
from .messages import NotRecorded, tensor, weight_of

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
        chosen: contents of the replies that the strategy handed to its aggregation of metrics: those it chose.
        unnoised: the model before noise was added; None where none is.
    """

    clip_norm: float | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    chosen: Sequence[RecordDict] | None = None
    unnoised: ArrayRecord | None = None


def aggregating(strategy: flower.Strategy) -> flower.Strategy:
    """The strategy that aggregates: the innermost one of wrappers that clip and add noise."""
    return aggregating(strategy.strategy) if isinstance(strategy, NOISED) else strategy


def require_known(strategy: flower.Strategy, weight_key: str | None) -> None:
    """Raise InputError where nothing is known of how a strategy aggregates."""
    inner = aggregating(strategy)
    if isinstance(strategy, NOISED) and isinstance(strategy.strategy, NOISED):
        raise InputError("ProvenanceStrategy: a strategy wrapped twice in differential privacy cannot be inverted")
    if isinstance(inner, flower.FedXgbBagging | flower.FedXgbCyclic):
        raise InputError(
            f"ProvenanceStrategy: {type(inner).__name__} combines trees; only networks' weights are traced"
        )
    if _rule(inner) is None and weight_key is None:
        known = ", ".join(sorted(kind.__name__ for kind in RULES))
        raise InputError(
            f"ProvenanceStrategy: it is not known how {type(inner).__name__} combines its clients. If the new model is "
            "the average of the replies weighted by one of their metrics, name that metric: "
            f"weight_key='num-examples'. Known are {known}, and strategies derived from them"
        )


def weight_key_of(strategy: flower.Strategy, declared: str | None) -> str:
    """The metric by which a strategy weighs its replies."""
    return declared or str(getattr(aggregating(strategy), "weighted_by_key", "num-examples"))


def look(strategy: flower.Strategy, server_round: int) -> StrategyRecord:
    """What can be seen of a strategy before it aggregates."""
    clip_norm = float(strategy.clipping_norm) if isinstance(strategy, CLIPPING) else None
    return StrategyRecord(clip_norm, _state(aggregating(strategy), server_round))


@contextmanager
def observed(strategy: flower.Strategy, seen: StrategyRecord) -> Iterator[None]:
    """Watch a strategy aggregate: whom it chooses, and its model before noise."""
    inner: Any = aggregating(strategy)
    undo: list[Callable[[], None]] = []

    def patch(owner: Any, name: str, function: Callable[..., Any]) -> None:
        before = vars(owner).get(name)
        setattr(owner, name, function)
        undo.append(lambda: delattr(owner, name) if before is None else setattr(owner, name, before))

    metrics = getattr(inner, "train_metrics_aggr_fn", None)
    if metrics is not None:

        def chosen(contents: list[RecordDict], key: str) -> Any:
            seen.chosen = list(contents)
            return metrics(contents, key)

        patch(inner, "train_metrics_aggr_fn", chosen)
    if inner is not strategy:
        aggregate = inner.aggregate_train

        def unnoised(server_round: int, replies: Any) -> Any:
            made = aggregate(server_round, replies)
            seen.unnoised = made[0]
            return made

        patch(inner, "aggregate_train", unnoised)
    try:
        yield
    finally:
        for restore in reversed(undo):
            restore()


def invert(
    strategy: flower.Strategy,
    declared: bool,
    returned: ReturnedModels,
    contents: Sequence[RecordDict],
    seen: StrategyRecord,
    result: Mapping[str, Tensor],
    parameters: Sequence[str],
) -> tuple[Decomposition, dict[str, Tensor]]:
    """What the new model is made of, and the server's next state.

    Args:
        strategy: what aggregated.
        declared: whether the average by the declared weight key is to be taken for what the strategy does.
        returned: what the clients returned, every array counted as a parameter: so Flower does. Its examples are the
            weights of the replies.
        contents: the replies, in the order of the stack.
        seen: what was seen of the strategy in this round.
        result: the arrays that it made.
        parameters: names of those that are parameters; the statement is about these.

    Raises:
        NotRecorded: the statement does not give the result, by more than rounding.
    """
    inner = aggregating(strategy)
    rule = None if declared else _rule(inner)
    try:
        fusion: Fusion = FedAvg() if rule is None else rule(inner, returned, contents, seen)
    except InputError as error:
        raise NotRecorded(f"{type(inner).__name__}: {error}") from None
    updates = unclipped(returned)
    if seen.clip_norm is not None:
        updates = Updates(returned, (seen.clip_norm / norms(updates)).clamp(max=1.0))
    fused = fuse(fusion, returned, seen.state, updates)
    stated = _stated(fused, fusion, returned, parameters)
    if seen.unnoised is not None:
        noise = {name: result[name].double() - tensor(seen.unnoised[name]).double() for name in parameters}
        stated = replace(stated, unsent={**stated.unsent, "noise": noise})
    coarsest = {name: _coarsest(name, returned, seen) for name in parameters}
    _compare(stated, fused, fusion, returned, result, coarsest, type(inner).__name__, declared)
    return stated, fused.state


def _stated(fused: FusionResult, fusion: Fusion, returned: ReturnedModels, parameters: Sequence[str]) -> Decomposition:
    """The decomposition of the parameters alone. What has no dimensions is never clipped by Flower."""
    multipliers = {name: entry for name, entry in fused.decomposition.multipliers.items() if name in parameters}
    for name in parameters:
        if returned.previous[name].dim() == 0 and bool((fused.updates.factors != 1).any()):
            ones = Multiplier(torch.ones(fused.updates.count, dtype=torch.float64))
            scale = torch.as_tensor(fused.scales[name], dtype=torch.float64)
            multipliers[name] = fused.shares.multipliers.get(name, ones).scaled(scale * fusion.gain)
    unsent = {
        kind: {name: part for name, part in parts.items() if name in parameters}
        for kind, parts in fused.decomposition.unsent.items()
    }
    return Decomposition(fused.decomposition.example_weights, multipliers, unsent)


def _compare(
    stated: Decomposition,
    fused: FusionResult,
    fusion: Fusion,
    returned: ReturnedModels,
    result: Mapping[str, Tensor],
    coarsest: Mapping[str, torch.dtype],
    kind: str,
    declared: bool,
) -> None:
    """Raise NotRecorded where `W_prev + U + sum_k A_k o (W_k - V_k)` is not the model that the strategy made.

    `coarsest` is the type in which each parameter was computed with, at least once.
    """
    updates, shares = unclipped(returned), Shares(stated.example_weights, stated.multipliers)
    worst, where = 0.0, ""
    for name, dtype in coarsest.items():
        before, stack = returned.previous[name].double(), returned.clients[name]
        moved, stale = combined(updates, shares, name)
        again = before + moved - (0.0 if stale is None else stale)
        for parts in stated.unsent.values():
            if name in parts:
                again = again + parts[name].double()
        # Strategies compute in the type of the model; an adaptive one scales the rounding of the average with its step.
        largest = torch.maximum(before.abs(), stack.abs().amax(0).double())
        step = torch.as_tensor(fused.scales[name], dtype=torch.float64).abs() * fusion.gain
        allowed = (updates.count + 16) * (1 + step) * largest + 16 * (again - before).abs()
        allowed = torch.finfo(dtype).eps * allowed + torch.finfo(dtype).tiny
        excess = float(((again - result[name].double()).abs() / allowed).max()) if again.numel() else 0.0
        if not excess <= worst:
            worst, where = excess, name
    if not worst <= 1:
        remedy = (
            "it is not the average by the declared weight key"
            if declared
            else "it does more than the strategy it derives from; an average by a metric is declared with weight_key"
        )
        raise NotRecorded(
            f"what {kind} made of the clients differs from what was expected by {worst:,.0f} times the rounding error "
            f"(most in {where}): {remedy}"
        )


def _coarsest(name: str, returned: ReturnedModels, seen: StrategyRecord) -> torch.dtype:
    """The type of least precision among what a parameter is computed from."""
    state = [value.dtype for key, value in seen.state.items() if key.endswith(f"/{name}")]
    return max([returned.clients[name].dtype, *state], key=lambda dtype: torch.finfo(dtype).eps)


Rule = Callable[[Any, ReturnedModels, Sequence[RecordDict], StrategyRecord], Fusion]


def _rule(strategy: flower.Strategy) -> Rule | None:
    """How the nearest known ancestor of a strategy aggregates; None: it has none."""
    return next((RULES[kind] for kind in type(strategy).__mro__ if kind in RULES), None)


def _average(*_: object) -> Fusion:
    return FedAvg()


def _momentum(strategy: Any, *_: object) -> Fusion:
    if not strategy.server_opt:
        return FedAvg()
    return FedAvgM(momentum=float(strategy.server_momentum), learning_rate=float(strategy.server_learning_rate))


def _adagrad(strategy: Any, *_: object) -> Fusion:
    return FedAdagrad(eta=float(strategy.eta), tau=float(strategy.tau), beta1=float(strategy.beta_1), initial_v=0.0)


def _adam(strategy: Any, *_: object) -> Fusion:
    return FedAdam(**_betas(strategy), bias_correction=True)


def _yogi(strategy: Any, *_: object) -> Fusion:
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


def _trimmed(strategy: Any, returned: ReturnedModels, *_: object) -> Fusion:
    return TrimmedMean(count=int(strategy.beta * len(returned.examples)))  # rounded as Flower does


def _chosen(strategy: Any, returned: ReturnedModels, contents: Sequence[RecordDict], seen: StrategyRecord) -> Fusion:
    return ChosenClients(taken=_taken(contents, seen))


def _bulyan(strategy: Any, returned: ReturnedModels, contents: Sequence[RecordDict], seen: StrategyRecord) -> Fusion:
    return NearestClients(taken=_taken(contents, seen), keep=len(contents) - 4 * int(strategy.num_malicious_nodes))


def _taken(contents: Sequence[RecordDict], seen: StrategyRecord) -> tuple[bool, ...]:
    """Whether the strategy chose each reply."""
    chosen = {id(content) for content in seen.chosen or ()}
    taken = tuple(id(content) in chosen for content in contents)
    if not any(taken):
        raise NotRecorded("it could not be seen which clients the strategy chose")
    return taken


def _fair(strategy: Any, returned: ReturnedModels, contents: Sequence[RecordDict], seen: StrategyRecord) -> Fusion:
    losses = tuple(weight_of(content, str(strategy.train_loss_key)) for content in contents)
    return FairAverage(losses=losses, q=float(strategy.q), lipschitz=1 / float(strategy.client_learning_rate))


RULES: dict[type, Rule] = {
    flower.FedAvg: _average,
    flower.FedProx: _average,
    flower.FedAvgM: _momentum,
    flower.FedAdagrad: _adagrad,
    flower.FedAdam: _adam,
    flower.FedYogi: _yogi,
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
            state[f"{kind}/{name}"] = torch.as_tensor(value)
    if state or isinstance(strategy, flower.FedAdam):
        state["round"] = torch.tensor(server_round - 1)  # FedAdam counts Flower's rounds, also where it starts late
    return state
