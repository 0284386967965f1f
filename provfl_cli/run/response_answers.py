"""What methods say of a response: traces of its tokens, and of the whole beside other methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from torch import Tensor, nn

from ..attribution.method import Attribution, Case
from ..errors import RunError
from ..evaluation.contributions import tidy
from ..provenance.contributions import Contributions, LayerTrace
from ..provenance.lineage import lineage_round
from ..provenance.responses import ResponseScore, ResponseTrace, trace_responses
from ..provenance.settings import Provenance
from ..provenance.stack import Source
from ..responses import NOT_SAID
from ..results.answer import MethodAnswer
from ..store.rounds import Round
from .asked_response import LOG_PROBABILITY, AskedResponse
from .inputs import UNKNOWN, TracedInputs
from .method_answer import method_answer
from .open_run import OpenFederation
from .tracing import attributed


class LogOdds(nn.Module):
    """The log-probability of a response minus that of another answer to the same prompt, `[n, 1]`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = ResponseScore(model, LOG_PROBABILITY)

    def forward(self, inputs: Tensor, instead: Tensor) -> Tensor:
        """Of responses `[n, 2, T]`, and the others."""
        scores: Tensor = self.module(inputs) - self.module(instead)
        return scores


@dataclass(frozen=True)
class TracedResponse:
    """One way of tracing: the response's tokens, those of the other answer, and the whole as a trace of one input."""

    method: str
    scope: str
    tokens: ResponseTrace
    instead: ResponseTrace | None
    whole: Contributions

    @property
    def clients(self) -> tuple[int, ...]:
        """Numbers of the clients that fusion used."""
        pairs = zip(self.whole.clients, self.whole.candidates, strict=True)
        return tuple(int(client) for client, used in pairs if used)


def traced_response(
    opened: OpenFederation, stored: Round, presets: Sequence[Provenance], asked: AskedResponse, kind: str | None
) -> list[TracedResponse]:
    """The traces of every preset; the federation's own over all rounds too, where it traces these.

    `kind` is the target of each token; None: the preset's own.
    """
    ways: list[tuple[Provenance, str, Source]] = [(preset, "round", stored) for preset in presets]
    own = opened.provenance
    if presets[0] == own and own.scope == "lineage" and stored.lineage_rows is not None:
        ways.append((own, "lineage", lineage_round(stored)))
    result = []
    for preset, scope, source in ways:
        tokens = _traced(opened, asked.packed, source, preset, kind)
        other = None if asked.packed_instead is None else _traced(opened, asked.packed_instead, source, preset, kind)
        result.append(TracedResponse(preset.name, scope, tokens, other, _whole(tokens, other, asked.span)))
    return result


def _traced(
    opened: OpenFederation, packed: Tensor, source: Source, preset: Provenance, kind: str | None
) -> ResponseTrace:
    layers_of = int((packed[:, 1] != NOT_SAID).sum())  # all tokens: their layers add up to those of the response
    return trace_responses(opened.model, packed.to(opened.device), source, preset, kind, layers_of)


def _whole(tokens: ResponseTrace, instead: ResponseTrace | None, span: tuple[int, int] | None) -> Contributions:
    """The sum over the tokens explained, minus that of the other answer, as a trace of one input."""
    first, behind = span or (0, len(tokens.token))
    of = tokens.tokens
    parts = [(1.0, of, slice(first, behind))]
    if instead is not None:
        parts.append((-1.0, instead.tokens, slice(None)))

    def summed(read: Callable[[Contributions], np.ndarray]) -> np.ndarray:
        sums = [sign * read(part)[rows].sum(0, keepdims=True) for sign, part, rows in parts]
        return np.asarray(sum(sums[1:], sums[0]))

    layers = tuple(
        LayerTrace(
            layer.layer,
            summed(lambda part, at=at: part.layers[at].contributions),  # type: ignore[misc]
            layer.active[first:behind].sum(keepdims=True),
            layer.neurons[first:behind].sum(keepdims=True),
        )
        for at, layer in enumerate(of.layers)
    )
    return replace(
        of,
        values=summed(lambda part: part.values),
        rows={name: summed(lambda part, name=name: part.rows[name]) for name in of.rows},  # type: ignore[misc]
        predictions=of.predictions[:1],
        probabilities=of.probabilities[:1],
        residuals=np.array([max(float(part.residuals[rows].max(initial=0.0)) for _, part, rows in parts)]),
        layers=layers,
        outputs=None,
    )


def case_of_response(opened: OpenFederation, stored: Round, asked: AskedResponse) -> Case:
    """The response as methods take it: one input, of whose score the only number is explained."""
    prompt = asked.prompt
    one = TracedInputs(
        asked.packed, np.array([prompt.number]), np.array([prompt.topic]), (prompt.text,), (prompt.name,)
    )
    case = opened.case(stored, one, np.zeros(1, dtype=np.int64))
    return replace(case, provenance=replace(case.provenance, target="output"), unlabelled=None)


def answers_about(
    opened: OpenFederation,
    case: Case,
    traced: Sequence[TracedResponse],
    rivals: Sequence[Attribution],
    asked: AskedResponse,
    kind: str,
    top: int,
) -> tuple[pd.DataFrame, tuple[MethodAnswer, ...]]:
    """Rows as those of `contributions.parquet`, and what each method says of the whole.

    `kind` is the target of each token that other methods than traces explain.

    Raises:
        RunError: no method could rank anybody.
    """
    number, topic = case.stored.number, asked.prompt.topic
    frames, wholes = list[pd.DataFrame](), dict[tuple[str, str], Contributions]()
    for way in traced:
        of = wholes[way.method, way.scope] = way.whole
        frames.append(
            tidy(
                way.method, way.scope, way.tokens.kind, number, case.numbers, case.labels, case.labels, of.clients,
                of.candidates, of.values, of.rows,
            )
        )  # fmt: skip
    notes: tuple[str, ...] = ()
    if rivals:
        other = asked.packed_instead
        scored = replace(
            case,
            model=ResponseScore(opened.model, kind, asked.span) if other is None else LogOdds(opened.model),
            inputs=asked.packed if other is None else {"inputs": asked.packed, "instead": other},
        )
        found = attributed(scored, [], rivals)
        notes = found.notes
        frames += [found.rows] if len(found.rows) else []
    if not frames:
        raise RunError("; ".join(notes) or "no method could rank anybody")
    rows = pd.concat(frames, ignore_index=True)
    known = opened if topic != UNKNOWN else replace(opened, label_counts={})
    answers = tuple(
        method_answer(known, part, wholes.get((str(method), str(scope))), None, max(topic, 0), top)
        for (method, scope), part in rows.groupby(["method", "scope"], sort=False)
    )
    return rows, answers
