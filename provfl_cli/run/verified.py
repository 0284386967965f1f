"""`provfl trace RUN --verify retrain`: the run's federation trained again without a client, and what it predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from rich.console import Console
from torch import nn

from ..attribution.method import Case
from ..federation.key import training_key
from ..federation.warm_start import initial_model
from ..reporting.progress import RetrainingProgress
from ..retraining.designs import LEAVE_ONE_OUT, Retraining
from ..retraining.predictions import Answer, Asked
from ..retraining.train import Whole, retrained
from .open_run import OpenFederation
from .private_part import completing
from .trained_again import federation_again

INSTEAD = "--verify, or provfl run with evaluation.counterfactual=retrain"  # where a run cannot be trained again


@dataclass(frozen=True)
class Without:
    """Predictions of a federation trained again without each of some clients.

    `logits` are `[classes]` by client, of those that there is a model of; `said` what it says, of a language model;
    `notes` what there is to say.
    """

    logits: Mapping[int, np.ndarray]
    notes: tuple[str, ...] = ()
    said: Mapping[int, str] = field(default_factory=dict)


def retrained_without(
    opened: OpenFederation,
    case: Case,
    clients: Sequence[int],
    console: Console,
    by: Callable[[nn.Module, torch.device], Answer] | None = None,
) -> Without:
    """Train again without each of the clients, up to the round of `case`, whose one input is predicted then.

    The run's own configuration and data; in the training cache where its rounds are, so that what is there already is
    not trained again.

    Args:
        opened: a run.
        case: its prediction.
        clients: who is left out, one at a time.
        console: where to show how far it is.
        by: asks a model in another way than for classes; None: for these.

    Raises:
        InputError: it is no run, or its data or initial model are not at hand.
        RunError: as `retraining.train.retrained`.
    """
    config, data = federation_again(opened, "--verify retrain", INSTEAD)
    model = initial_model(config, data)
    stored = case.stored
    sharing = opened.sharing
    completes = dict[int, int]()
    if sharing is not None and sharing.private:
        completes[stored.number] = completing(stored, opened.traced, opened.examples)[0]
    whole = Whole(config, data, {config.seed: model}, opened.device, completes)
    notes = []
    if training_key(config, data, model, opened.device)[0] != opened.key:
        notes.append(
            "trained again by another version of ProvFL or torch, or on another device, than the run: what changes "
            "without a client holds a little of that"
        )
    everybody = [share.id for share in data.clients]
    plan = [
        Retraining(LEAVE_ONE_OUT, tuple(other for other in everybody if other != client), config.seed)
        for client in clients
    ]
    asked = [Asked(stored.number, case.inputs, case.numbers, case.classes, by)]
    logits, said = dict[int, np.ndarray](), dict[int, str]()
    with (
        retrained(whole, asked, plan, config.retrain.workers) as results,
        RetrainingProgress(console, len(plan)) as progress,
    ):
        for (_, kept, _), outcome in results:
            progress.finished(outcome.accuracy, bool(outcome.trained))
            (gone,) = {*everybody} - {*kept}
            if outcome.answers:
                answer = outcome.answers[stored.number]
                logits[gone] = answer.logits[0]
                if answer.said:
                    said[gone] = answer.said[0]
            else:
                notes.append(f"without {opened.name_of(gone)}: {outcome.reason}")
    return Without(logits, tuple(notes), said)
