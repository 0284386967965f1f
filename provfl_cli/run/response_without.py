"""A response without some clients: its log-probability, and what the model says instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from torch import nn

from ..attribution.counterfactual import models
from ..attribution.method import Case
from ..attribution.settings import KINDS
from ..data.template import Codec
from ..provenance.shared_part import load_part
from ..results.answer import Agreement
from ..results.response import Without
from ..retraining.predictions import Answer
from .asked_response import AskedResponse, ResponseQuery, said
from .method_answer import agreements_of
from .open_run import OpenFederation
from .query import left_out
from .verified import retrained_without

TOO_FEW = "the fusion does not work with so few clients"


@dataclass(frozen=True)
class Measured:
    """What was measured without clients: those that the user named, each of the best; how rankings fit that."""

    what_if: tuple[Without, ...] = ()
    effects: tuple[Without, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Ask:
    """Asks a model for the value of a response, and what it says itself."""

    asked: AskedResponse
    codec: Codec
    question: ResponseQuery

    def __call__(self, model: nn.Module) -> tuple[float, str]:
        tokens = said(model, self.asked.prompt, self.codec, self.question)
        return self.asked.value(model), self.codec.text(tokens)


def measured_without(
    opened: OpenFederation,
    case: Case,
    asked: AskedResponse,
    codec: Codec,
    question: ResponseQuery,
    value: float,
    rows: pd.DataFrame,
    best: Sequence[int],
    console: Console,
) -> Measured:
    """Leave clients out, as the question asks for.

    Args:
        opened: the federation; its model's weights are others afterwards.
        case: the response as methods take it.
        asked, codec, question: the response, and what to find out of it.
        value: its value with all clients.
        rows: what every method says.
        best: clients to leave out one by one.
        console: where to show how far retraining is.

    Raises:
        InputError: a client that there is not, or retraining is not possible.
    """
    ask = _Ask(asked, codec, question)
    kinds = [kind for kind in KINDS[::-1] if kind == "withhold" or opened.fusion is not None]
    what_if: tuple[Without, ...] = ()
    if question.without:
        numbers, removed = left_out(opened, case.stored, question.without)
        names = tuple(map(opened.name_of, numbers))
        if len(removed) == len(case.stored.clients):
            nobody = "nobody is left: these are all clients of the round"
            what_if = tuple(Without(kind, names, None, reason=nobody) for kind in kinds)
        else:
            what_if = tuple(each for kind in kinds for each in _without(opened, case, kind, [(names, removed)], ask))
    if not question.verify:
        return Measured(what_if)
    if question.verify == "retrain":
        effects, notes = _trained_again(opened, case, best, ask, console)
    else:
        there = [client for client in best if client in case.stored.clients]
        coalitions = [((opened.name_of(client),), (case.stored.clients.index(client),)) for client in there]
        effects, notes = tuple(_without(opened, case, kinds[0], coalitions, ask)), ()
    by_name = {each.clients[0]: each.value for each in effects if each.value is not None}
    losses = np.array([value - by_name.get(opened.name_of(client), np.nan) for client in best])
    kind = "retrain" if question.verify == "retrain" else kinds[0]
    return Measured(what_if, effects, tuple(agreements_of(opened, rows, best, {kind: losses})), notes)


def _without(
    opened: OpenFederation,
    case: Case,
    kind: str,
    coalitions: Sequence[tuple[tuple[str, ...], tuple[int, ...]]],
    ask: Callable[[nn.Module], tuple[float, str]],
) -> Iterator[Without]:
    """The answer without each of the coalitions: names, and positions among the clients of the round."""
    model = opened.model
    for (names, _), state in zip(coalitions, models(case, kind, [gone for _, gone in coalitions]), strict=True):
        if state is None:
            yield Without(kind, names, None, reason=TOO_FEW)
            continue
        load_part(model, state)
        value, says = ask(model)
        yield Without(kind, names, value, says)


def _trained_again(
    opened: OpenFederation,
    case: Case,
    best: Sequence[int],
    ask: Callable[[nn.Module], tuple[float, str]],
    console: Console,
) -> tuple[tuple[Without, ...], tuple[str, ...]]:
    """The answer of a federation trained again without each of the clients, and what there is to say of that."""

    def answered(model: nn.Module, device: torch.device) -> Answer:
        value, says = ask(model.to(device))
        return Answer(np.array([[value]]), np.array([value]), np.array([-1]), (says,))

    without = retrained_without(opened, case, best, console, answered)
    effects = []
    for client in best:
        names = (opened.name_of(client),)
        if client in without.logits:
            effects.append(Without("retrain", names, float(without.logits[client][0]), without.said[client]))
        else:
            effects.append(Without("retrain", names, None, reason="could not be trained"))
    return tuple(effects), without.notes
