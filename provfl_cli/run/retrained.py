"""A run's federation trained again without some clients: which sets of them, their training, what it comes to."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.text import Text
from torch import nn

from ..checks import SEEDS
from ..config.retrain import LINEAGE, Retrain
from ..config.schema import Config
from ..data.federated import FederatedData
from ..data.load import clean_twin
from ..evaluation.contributions import traces
from ..evaluation.removal import removal_scores
from ..federation.sharing import Sharing
from ..federation.warm_start import initial_model
from ..processes import one_thread
from ..reporting.console import heading
from ..reporting.progress import RetrainingProgress
from ..results.retrainings import retraining_frames
from ..retraining.designs import (
    ALL,
    CLEAN_TWIN,
    FULL,
    HALVES,
    LEAVE_ONE_OUT,
    REMOVAL,
    Retraining,
    every_subset,
    halves,
    leave_one_out,
    orders_of_removal,
    removal,
)
from ..retraining.feasible import check_enough, counted, fewer_halves, grouped, impossible
from ..retraining.predictions import Answer, Asked, answered
from ..retraining.train import Outcome, Training, Whole, retrained
from ..store.rounds import Round
from .private_part import completing
from .tracing import ChosenInputs

Others = Mapping[str, tuple[Config, FederatedData]]
"""As in `Whole.others`."""


@dataclass(frozen=True)
class Retrainings:
    """What retraining came to: rows of `retrainings.csv` and `retrained.parquet`, and what there is to say of them."""

    made: pd.DataFrame
    predictions: pd.DataFrame
    notes: tuple[str, ...]
    seconds: float

    @property
    def figures(self) -> dict[str, float]:
        """For `summary.json`: how accurate the clean twin is, where there is one."""
        twins = self.made.loc[self.made["design"] == CLEAN_TWIN, "accuracy"]
        return {"clean_twin_accuracy": float(twins.iloc[0])} if len(twins) else {}


@dataclass
class Questions:
    """What the run's own models predict, round by round: every model that is trained again is asked the same."""

    asked: list[Asked] = field(default_factory=list)
    answers: dict[int, Answer] = field(default_factory=dict)
    stored: Round | None = None
    completing: dict[int, int] = field(default_factory=dict)

    def add(
        self,
        model: nn.Module,
        chosen: ChosenInputs,
        stored: Round,
        device: torch.device,
        sharing: Sharing,
        named: int | None,
        examples: Mapping[int, int],
    ) -> None:
        """Take in the chosen predictions, if there are any, of a model with the weights of a traced round.

        `sharing`, `named` and `examples` say whose private tensors it has, as for `private_part.complete`.
        """
        if not len(chosen.numbers):
            return
        asked = Asked(stored.number, chosen.inputs, chosen.numbers, chosen.predictions)
        with one_thread():  # as the others answer
            self.answers[stored.number] = answered(model.to(device), asked, device)
        self.asked.append(asked)
        self.stored = stored
        if sharing.private:
            self.completing[stored.number] = completing(stored, named, examples)[0]

    def whole(
        self, config: Config, data: FederatedData, initial: nn.Module, device: torch.device, others: Others
    ) -> Whole:
        """The federation, whose training started from the model `initial`, and `others` with data of their own."""
        models = {config.seed: initial}
        if config.retrain.again:
            second = another_seed(config.seed)
            models[second] = initial_model(config, data, second)
        return Whole(config, data, models, device, self.completing, others)

    def full(self, key: str) -> Outcome:
        """What the run itself gives, under its key in the training cache."""
        assert self.stored is not None
        history = self.stored.history
        return Outcome(key, history[-1].accuracy, sum(metrics.seconds for metrics in history), self.answers)


def another_seed(seed: int) -> int:
    """The seed of the second training: of initial weights, orders, dropout, who takes part; data are as they were."""
    return seed + 1 if seed < SEEDS.most else 0


def others_of(config: Config, data: FederatedData) -> Others:
    """Federations that are trained on other data than the run's own, by design: the clean twin.

    Raises:
        InputError: the data cannot be had again.
    """
    return {CLEAN_TWIN: clean_twin(config, data)} if CLEAN_TWIN in config.retrain.chosen else {}


def plan_of(settings: Retrain, seed: int, data: FederatedData, others: Others) -> list[Retraining]:
    """All that is to be trained whatever the attributions will be.

    Args:
        settings: of the run.
        seed: of its training.
        data: of all its clients.
        others: see `others_of`.

    Raises:
        InputError: a design does not work with so many clients.
    """
    clients, chosen = [client.id for client in data.clients], settings.chosen
    plan = list[Retraining]()
    if LEAVE_ONE_OUT in chosen:
        plan += [Retraining(LEAVE_ONE_OUT, kept, seed) for kept in leave_one_out(clients)]
    if HALVES in chosen:
        drawn = halves(clients, settings.subsets, seed)
        plan += [Retraining(HALVES, kept, seed) for kept in drawn]
        plan += [Retraining(HALVES, kept, another_seed(seed)) for kept in drawn[: settings.again]]
    if ALL in chosen:
        plan += [Retraining(ALL, kept, seed) for kept in every_subset(clients)]
    for design, (_, theirs) in others.items():
        plan.append(Retraining(design, tuple(client.id for client in theirs.clients), seed))
    return plan


def before_training(
    config: Config,
    data: FederatedData,
    others: Others,
    plan: Sequence[Retraining],
    last: int,
    completing: Mapping[int, int],
) -> list[str]:
    """What there is to say of a plan before anything is trained: what of it cannot be, and why.

    Args:
        config: of the run.
        data: of all its clients.
        others: see `others_of`.
        plan: see `plan_of`.
        last: the last of the rounds that are traced.
        completing: by traced round, whose private tensors will complete the model; {}: nothing is private.

    Raises:
        InputError: too little of a design can be trained for any figure.
    """
    whole = Whole(config, data, {}, torch.device("cpu"), completing, others)
    clients = [own.id for own in data.clients]
    reasons = {retraining: whole.why_not(retraining, last) for retraining in plan}
    known = dict[Retraining, str]()
    if REMOVAL in config.retrain.chosen:  # whom a trace names is not known: any first one, and the orders that are
        examples = {own.id: len(own.labels) for own in data.clients}
        firsts = [
            *leave_one_out(clients),
            *(
                kept
                for order in orders_of_removal(clients, examples, config.seed).values()
                for kept in removal(clients, order, config.retrain.top)
            ),
        ]
        removed = [Retraining(REMOVAL, kept, config.seed) for kept in firsts]
        known = {retraining: whole.why_not(retraining, last) for retraining in removed}
    check_enough(config.retrain, clients, config.seed, reasons | known)
    held = f"LDS is over those of the sets of clients that hold {named(completing)}" if completing else ""
    scored = any(design in (HALVES, ALL) for design in config.retrain.chosen)
    lines = [fewer_halves(config.retrain, len(clients)), impossible(reasons), held if scored else ""]
    return [line for line in lines if line]


def removals(
    settings: Retrain, seed: int, data: FederatedData, contributions: Sequence[pd.DataFrame]
) -> list[Retraining]:
    """Top clients gone, by each method's mean contribution to the traced predictions; random ones and the largest.

    `contributions` are those of each traced round. A method that has other top clients in another round has them gone
    too: each round is measured without its own.
    """
    if REMOVAL not in settings.chosen:
        return []
    clients = [client.id for client in data.clients]
    orders = list[tuple[str, Sequence[int]]]()
    for name in settings.methods:
        method, scope = name.removesuffix(LINEAGE), "lineage" if name.endswith(LINEAGE) else "round"
        for frame in contributions:
            own = frame[(frame["method"] == method) & (frame["scope"] == scope)]
            for _, trace in traces(own):
                scores = removal_scores(trace, np.array(clients))
                orders.append((name, [clients[position] for position in np.argsort(-scores, kind="stable")]))
    examples = {client.id: len(client.labels) for client in data.clients}
    orders += orders_of_removal(clients, examples, seed).items()
    gone = [
        Retraining(REMOVAL, kept, seed, name)
        for name, order in orders
        for kept in removal(clients, order, settings.top)
    ]
    return list(dict.fromkeys(gone))


def retrain(
    whole: Whole, asked: Sequence[Asked], full: Outcome, plan: Sequence[Retraining], console: Console
) -> Retrainings:
    """Train all of the plan, with a display of how far it is.

    Args:
        whole: the federation.
        asked: the predictions traced, by round; of each at least one.
        full: what the run's own models make of them.
        plan: what to train.
        console: where to show it.

    Raises:
        RunError: as `retrained`.
    """
    began = time.perf_counter()
    last = max(question.round for question in asked)
    reasons = {retraining: whole.why_not(retraining, last) for retraining in plan}
    outcomes = {whole.training(retraining): Outcome(reason=reason) for retraining, reason in reasons.items() if reason}
    possible = [retraining for retraining, reason in reasons.items() if not reason]
    trainings = {whole.training(retraining) for retraining in possible}
    console.print(heading("Trained again"))
    removed = {retraining: reason for retraining, reason in reasons.items() if retraining.design == REMOVAL}
    if unknown := impossible(removed):  # of the others it was said before the run was trained
        console.print(Text(unknown))
    of_them = f" ({counted(possible, whole.config.seed)})" if possible else ""
    console.print(Text(f"{len(trainings)} federation{'' if len(trainings) == 1 else 's'}{of_them}"))
    if whole.config.engine.name != "local":
        console.print(Text(f"on engine=local, not engine={whole.config.engine.name}: it gives the same models faster"))
    if possible:
        with (
            retrained(whole, asked, possible, whole.config.retrain.workers) as results,
            RetrainingProgress(console, len(trainings)) as progress,
        ):
            for training, outcome in results:
                outcomes[training] = outcome
                progress.finished(outcome.accuracy, bool(outcome.trained))
    all_clients = tuple(client.id for client in whole.data.clients)
    made = [(Retraining(FULL, all_clients, whole.config.seed), full)]
    made += [(retraining, outcomes[whole.training(retraining)]) for retraining in plan]
    frames = retraining_frames(made, asked)
    return Retrainings(*frames, tuple(_missing(whole, outcomes, plan)), time.perf_counter() - began)


def _missing(whole: Whole, outcomes: Mapping[Training, Outcome], plan: Sequence[Retraining]) -> list[str]:
    """What to say of federations that there is no model of, by reason."""
    failed = [outcome.reason for outcome in outcomes.values() if not outcome.answers]
    if not failed:
        return []
    said = [f"{len(failed)} of {len(outcomes)} federations could not be trained again ({grouped(failed)})"]
    there = {
        retraining.clients
        for retraining in plan
        if retraining.design in (HALVES, ALL) and outcomes[whole.training(retraining)].answers
    }
    if whole.completing and there:
        said.append(f"LDS is over the {len(there)} sets of clients that hold {named(whole.completing)}")
    return said


def named(completing: Mapping[int, int]) -> str:
    """The clients whose private tensors complete the model, in words."""
    return " and ".join(f"client {client}" for client in sorted({*completing.values()}))
