"""Responses that are traced: which of the answers to the test prompts, and as what methods are asked about them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from ..attribution.method import Case
from ..config.schema import Evaluation
from ..data.federated import FederatedData
from ..evaluation.selection import select_inputs
from ..models.causal import ResponseModel
from ..provenance.responses import ResponseScore
from .answers import answers
from .tracing import ChosenInputs


def choose_responses(
    model: ResponseModel,
    data: FederatedData,
    holders: Mapping[int, np.ndarray],
    evaluation: Evaluation,
    topics: str,
    seed: int,
    device: torch.device,
) -> ChosenInputs:
    """Let the model answer the test prompts, and choose responses, as `choose_inputs` does predictions.

    A response is correct where it is of the topic that was asked for. `topics` as of `answers`.
    """
    began = time.perf_counter()
    said = answers(model, data.test, data, topics, device)
    labels = data.test.labels.numpy()
    selection = select_inputs(
        said.topics, labels, holders, evaluation.min_examples, evaluation.inputs, evaluation.max_inputs, seed
    )
    positions = selection.inputs
    return ChosenInputs(
        selection=selection,
        inputs=said.inputs[positions],
        numbers=data.test.indices[positions],
        labels=labels[positions],
        predictions=said.topics[positions],
        seconds=time.perf_counter() - began,
        texts=tuple(said.texts[position] for position in positions),
    )


def response_case(case: Case) -> Case:
    """The question about whole responses: what is explained is the sum of their tokens' targets."""
    return replace(
        case,
        model=ResponseScore(case.model, case.provenance.target),
        provenance=replace(case.provenance, target="output"),
        wanted=torch.zeros(len(case.numbers), dtype=torch.int64),
    )
