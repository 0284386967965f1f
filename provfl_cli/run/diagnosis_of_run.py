"""Who is behind the mistakes of the model that a run has just trained: fast, over bounded numbers of inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..attribution.evidence import UNKNOWN, only
from ..attribution.method import Case
from ..data.federated import TestData
from ..federation.client import steps_made
from ..models.causal import ResponseModel
from ..provenance.merged import load_round
from ..provenance.responses import ResponseScore
from ..results.diagnosis import Diagnosis
from ..store.rounds import Round
from .diagnosed import Material, Question, diagnose
from .prepared import Prepared
from .private_part import complete
from .tracing import model_outputs

MOST_BESIDE = 1000  # test inputs that are looked at
MOST_ASKED = 250  # mistakes that are traced


def diagnosis_of_run(ready: Prepared, case: Case) -> Diagnosis | None:
    """The diagnosis of the mistakes among the test inputs; None of responses, of one client, and without labels.

    Args:
        ready: the federation.
        case: predictions of its last traced round; the model is left with the weights of that.
    """
    if isinstance(case.model, ResponseScore | ResponseModel) or len(case.stored.clients) < 2:
        return None
    model, config = ready.model, ready.config

    def load(stored: Round) -> None:
        load_round(model, stored)
        complete(model, stored, ready.sharing, config.evaluation.client, ready.examples)

    load(case.stored)
    steps = steps_made(ready.examples, case.stored, config.federation, config.seed)
    case = replace(case, steps=steps, unlabelled=None)
    whole = _predicted(case, ready.data.test)
    beside = whole if ready.data.clean is None else _predicted(case, ready.data.evaluated)
    if (beside.labels == UNKNOWN).all():
        return None
    wrong = np.flatnonzero(whole.labels != whole.classes)
    notes = []
    if len(wrong) > MOST_ASKED:
        notes.append(f"{MOST_ASKED:,} of {len(wrong):,} mistakes are looked at: provfl diagnose looks at all")
        wrong = wrong[np.linspace(0, len(wrong) - 1, MOST_ASKED).round().astype(np.int64)]
    tested = len(ready.data.test.labels)
    if tested > MOST_BESIDE:
        notes.append(f"{MOST_BESIDE:,} of {tested:,} test inputs are looked at: provfl diagnose looks at more")
    return diagnose(
        Material(
            asked=only(whole, wrong),
            beside=beside,
            question=Question("mistake", mistakes=True),
            load=load,
            faulty=ready.data.faults.clients,
            notes=tuple(notes),
        )
    )


def _predicted(case: Case, test: TestData) -> Case:
    """Test inputs, `MOST_BESIDE` at most, with what the loaded model predicts of them."""
    count = len(test.labels)
    at = np.arange(count)
    if count > MOST_BESIDE:
        at = np.linspace(0, count - 1, MOST_BESIDE).round().astype(np.int64)
    inputs = test.inputs[torch.from_numpy(at)]
    classes = model_outputs(case.model.to(case.device), inputs, case.device, classes=True).argmax(1).numpy()
    return replace(case, inputs=inputs, numbers=test.indices[at], labels=test.labels.numpy()[at], classes=classes)
