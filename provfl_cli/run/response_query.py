"""Ask about a response of an opened federation's language model: who pushed which token, what is said without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from torch import Tensor, nn

from ..data.template import Codec
from ..provenance.responses import ResponseTrace
from ..results.response import Response, TracedTokens
from ..results.tokens import token_frame
from .asked_response import (
    LOG_PROBABILITY,
    AskedResponse,
    ResponseQuery,
    asked_response,
    said,
    token_log_probabilities,
)
from .inputs import UNKNOWN
from .open_run import OpenFederation
from .prompts import Prompt
from .response_answers import TracedResponse, answers_about, case_of_response, traced_response
from .response_without import measured_without


def ask_response(
    opened: OpenFederation, number: int | None, prompt: Prompt, codec: Codec, question: ResponseQuery, console: Console
) -> Response:
    """Answer about one response.

    Args:
        opened: a federation of a causal language model.
        number: of the round; None: the last one traced.
        prompt: to be answered.
        codec: texts as its model reads them.
        question: what to find out.
        console: where to show how far retraining is.

    Raises:
        InputError: a round, method, client or piece of the response that there is not.
        RunError: a stored file is damaged, or conservation fails.
    """
    presets, rivals = opened.methods(question.methods)
    if question.adapters is not None:
        presets = [replace(preset, adapters=question.adapters) for preset in presets]
    stored = opened.round(number)
    model = opened.model.to(opened.device)
    whose = opened.load(stored)
    asked = asked_response(model, prompt, codec, question)
    value = asked.value(model)
    says = codec.text(asked.response if question.response is None else said(model, prompt, codec, question))
    kind = LOG_PROBABILITY if question.instead is not None else question.target
    # The tokens are always shown by a trace, though only other methods may have been asked for.
    traced = traced_response(opened, stored, presets or [opened.provenance], asked, kind)
    own = traced[0]
    opened.load(stored)
    tokens = _tokens(model, codec, asked.packed, asked.response, own.tokens)
    other = None
    if asked.instead is not None and asked.packed_instead is not None and own.instead is not None:
        other = _tokens(model, codec, asked.packed_instead, asked.instead, own.instead)
    case = case_of_response(opened, stored, asked)
    ways = traced if presets else []
    rows, answers = answers_about(opened, case, ways, rivals, asked, kind or opened.provenance.target, question.top)
    best = [client.client for client in answers[0].clients]
    measured = measured_without(opened, case, asked, codec, question, value, rows, best, console)
    return Response(
        title=prompt.name,
        where=str(opened.folder),
        round=stored.number,
        prompt=prompt.text,
        made=question.made,
        says=says,
        expected=prompt.expected,
        tokens=tokens,
        clients=own.clients,
        client_names=tuple(map(opened.name_of, own.clients)),
        target=own.tokens.kind,
        value=value,
        answers=answers,
        span=asked.span,
        instead=other,
        what_if=measured.what_if,
        effects=measured.effects,
        agreements=measured.agreements,
        notes=(*_notes(opened, asked, own, question), *([whose] if whose else []), *measured.notes),
        doubts=tuple(_doubts(asked, codec, question)),
        topic="" if prompt.topic == UNKNOWN else opened.label_names[prompt.topic],
        **_phrase(opened, codec.text(asked.response)),
    )


def _phrase(opened: OpenFederation, response: str) -> dict[str, Any]:
    """Whose phrase a response is, and who teaches it."""
    topic = None if opened.prompts is None else opened.prompts.topic_of(response)
    if topic is None or not UNKNOWN <= topic < len(opened.label_names):
        return {}
    if topic == UNKNOWN:
        return {"phrase_of": ""}
    least = 1 if opened.config is None else opened.config.evaluation.min_examples
    holders = [client for client, counts in opened.label_counts.items() if counts[topic] >= least]
    return {"phrase_of": opened.label_names[topic], "holders": tuple(map(opened.name_of, sorted(holders)))}


def response_frame(response: Response) -> pd.DataFrame:
    """Everybody's contributions to the tokens of a response, in the columns of `tokens.parquet` and `client_name`."""
    tokens = response.tokens
    count = len(tokens.numbers)
    frame = token_frame(
        response.round, "round", response.target, np.zeros(count), np.arange(count), np.array(tokens.numbers),
        tokens.texts, response.clients, tokens.values,
    )  # fmt: skip
    return frame.assign(client_name=list(response.client_names) * count)


def _tokens(
    model: nn.Module, codec: Codec, packed: Tensor, response: Sequence[int], trace: ResponseTrace
) -> TracedTokens:
    return TracedTokens(
        numbers=tuple(response),
        texts=tuple(codec.pieces(response)),
        ends=response[-1] == codec.end,
        log_probabilities=token_log_probabilities(model, packed),
        values=trace.tokens.values[:, trace.tokens.candidates],
    )


def _notes(opened: OpenFederation, asked: AskedResponse, own: TracedResponse, question: ResponseQuery) -> Iterator[str]:
    """What a reader has to know."""
    prompt = asked.prompt
    yield from (*opened.notes, *prompt.notes, *asked.notes, *own.whole.notes)
    if prompt.chosen:
        yield f"{prompt.name} is the first there is; another: --input INDEX, or --prompt TEXT"
    if opened.fusion is None and (question.without or question.verify):
        yield "how to fuse these rounds again is not recorded, so clients are withheld: the others' shares stay"


def _doubts(asked: AskedResponse, codec: Codec, question: ResponseQuery) -> Iterator[str]:
    """Why rankings may say little of this response."""
    if asked.response[-1] != codec.end and question.response is None:
        yield f"the response was cut after {len(asked.response):,} tokens: the model had not ended it (--tokens)"
