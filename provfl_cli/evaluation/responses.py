"""Is the owner of what a model said on top? Of whole responses, and of their tokens.

A response is judged by what was *said*: its topic (`Trace.predictions`), which is that of the phrase that it is, -1
where it is none that anybody taught. The owners of a response are the candidates that hold the topic said. What nobody
owns, and what everybody does, says nothing about a ranking. Where something else was said than what was asked for, the
model has gone astray: such responses are reported apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd

from .contributions import TRACE, Trace, ranks
from .intervals import mean_there
from .planted import auroc, corrected
from .ranking import Order, hit, no_order, order

RESPONSE_METRICS = (
    "said_inputs", "owner_top1", "owner_top1_chance", "owner_corrected", "owner_hit@2", "owner_hit@2_chance",
    "owners_found", "owners_found_chance", "owner_auroc", "owner_share", "other_share",
    "astray_inputs", "astray_top1", "astray_top1_chance", "unsaid_inputs",
)  # fmt: skip
TOKEN_METRICS = (
    "tokens", "token_top1", "token_top1_chance", "span_tokens", "span_top1", "rest_tokens", "rest_top1",
    "span_precision", "span_precision_chance", "span_auroc",
)  # fmt: skip
TOKEN_COLUMNS = (*TRACE[1:], "input", "position", "text", "client", "contribution")
UNSAID = -1


def owners_of(predictions: np.ndarray, clients: np.ndarray, counts: Mapping[int, np.ndarray], least: int) -> np.ndarray:
    """Which clients own what was said, bool `[n, K]`: those that hold its topic.

    Args:
        predictions: int `[n]`, the topics said; `UNSAID` is nobody's.
        clients: int `[K]`.
        counts: training examples by topic of each client, int `[topics]`.
        least: from so many on a client holds a topic.
    """
    held = np.stack([counts[int(client)] for client in clients]) >= least
    return np.asarray(held[:, predictions].T & (predictions != UNSAID)[:, None])


def response_metrics(trace: Trace, ranking: Order, owners: np.ndarray) -> dict[str, float | int]:
    """Does the ranking of a response find who owns it?

    Args:
        trace: whose ranking it is; labels are the topics that were asked for, predictions those that were said.
        ranking: the order of its candidates by contribution.
        owners: bool `[n, K]`, see `owners_of`.

    Returns:
        said_inputs: responses that say what was asked for, which some candidates own and others do not; what follows is
            of these.
        owner_top1, owner_top1_chance, owner_corrected: is an owner on top? Chance is `f / K`, with `f` of `K` owners.
        owner_hit@2, owner_hit@2_chance: is one among the first two?
        owners_found, owners_found_chance: are the first `f` all owners: is every one of them found? Chance is
            `1 / C(K, f)`.
        owner_auroc: how likely an owner stands before another candidate; chance is 0.5.
        owner_share, other_share: what owners, and what the others, contribute together, of `sum |T|`.
        astray_inputs, astray_top1, astray_top1_chance: the first two of responses of another topic than was asked for,
            which some own and others do not.
        unsaid_inputs: responses that are nobody's phrase.
    """
    count = owners.sum(axis=1)
    owned, right = (count > 0) & (count < owners.shape[1]), trace.predictions == trace.labels
    told, astray = owned & right, owned & ~right
    there, wanted = _rows(ranking, told), owners[told]
    chance = no_order(*wanted.shape)
    values = trace.contributions[told]
    whole = np.abs(values).sum(axis=1)
    parts = values / np.where(whole > 0, whole, 1.0)[:, None]
    result: dict[str, float | int] = {
        "said_inputs": int(told.sum()),
        "owner_top1": mean_there(hit(there, wanted)),
        "owner_top1_chance": mean_there(hit(chance, wanted)),
        "owner_hit@2": mean_there(hit(there, wanted, 2)),
        "owner_hit@2_chance": mean_there(hit(chance, wanted, 2)),
        "owners_found": mean_there(all_first(there, wanted)),
        "owners_found_chance": mean_there(all_first(chance, wanted)),
        "owner_auroc": mean_there(np.array([auroc(*row) for row in zip(-trace.rank[told], wanted, strict=True)])),
        "owner_share": mean_there((parts * wanted).sum(axis=1)),
        "other_share": mean_there((parts * ~wanted).sum(axis=1)),
        "astray_inputs": int(astray.sum()),
        "astray_top1": mean_there(hit(_rows(ranking, astray), owners[astray])),
        "astray_top1_chance": mean_there(owners[astray].mean(axis=1)),
        "unsaid_inputs": int((trace.predictions == UNSAID).sum()),
    }
    result["owner_corrected"] = corrected(result["owner_top1"], result["owner_top1_chance"])
    return result


def all_first(ranking: Order, owners: np.ndarray) -> np.ndarray:
    """Probability that the `f` owners of an input are the first `f` of its ranking, `[n]`; every input has some."""
    count = owners.sum(axis=1)
    found = np.empty(len(owners))
    for f in np.unique(count):
        of_size = count == f
        found[of_size] = 1.0 - hit(_rows(ranking, of_size), ~owners[of_size], int(f))
    return found


@dataclass(frozen=True)
class TokenTrace:
    """The contributions to tokens of responses, one row a token.

    `inputs`, `positions` int `[rows]`: of which input's response, and which token in it, from 0; `texts`: of each;
    `clients` int `[K]`; `contributions` float64 `[rows, K]`.
    """

    inputs: np.ndarray
    positions: np.ndarray
    texts: tuple[str, ...]
    clients: np.ndarray
    contributions: np.ndarray


def token_traces(frame: pd.DataFrame) -> dict[tuple[str, str, int], TokenTrace]:
    """The traces in rows of `tokens.parquet`, by scope, target and round; clients not used have no contribution.

    Raises:
        ValueError: a contribution is given twice, or is missing for some tokens only.
    """
    found = {}
    for key, group in frame[frame["contribution"].notna()].groupby(list(TRACE[1:]), sort=False):
        wide = group.pivot(index=["input", "position"], columns="client", values="contribution").sort_index()
        if wide.isna().any(axis=None):
            raise ValueError(f"{key}: not one contribution for each token and candidate")
        texts = group.drop_duplicates(["input", "position"]).set_index(["input", "position"])["text"]
        scope, target, number = cast("tuple[str, str, int]", key)
        found[str(scope), str(target), int(number)] = TokenTrace(
            inputs=wide.index.get_level_values("input").to_numpy(np.int64),
            positions=wide.index.get_level_values("position").to_numpy(np.int64),
            texts=tuple(map(str, texts.loc[wide.index])),
            clients=wide.columns.to_numpy(np.int64),
            contributions=wide.to_numpy(np.float64),
        )
    return found


def planted_tokens(tokens: TokenTrace, spans: Mapping[int, str]) -> np.ndarray:
    """Which tokens are of the span that was planted, bool `[rows]`.

    Args:
        tokens: of responses.
        spans: what was planted, by input; where the response does not hold it, none of its tokens is.
    """
    marked = np.zeros(len(tokens.inputs), dtype=bool)
    for number, span in spans.items():
        rows = np.flatnonzero(tokens.inputs == number)
        pieces = [tokens.texts[row] for row in rows]
        start = "".join(pieces).find(span.strip())
        if start < 0 or not span.strip():
            continue
        ends = np.cumsum([len(piece) for piece in pieces])
        begins = ends - [len(piece) for piece in pieces]
        marked[rows] = (begins < start + len(span.strip())) & (ends > start)
    return marked


def token_metrics(tokens: TokenTrace, owners: np.ndarray, planted: np.ndarray) -> dict[str, float | int]:
    """Is the owner on top of each token, and more so where the planted span is?

    Args:
        tokens: of responses.
        owners: bool `[rows, K]`, who owns the response of which each is a token; nobody where it is not to be looked
            at, since something else was said than what was asked for.
        planted: bool `[rows]`, see `planted_tokens`.

    Returns:
        tokens: those of responses that some candidates own and others do not; all that follows is of these.
        token_top1, token_top1_chance: is an owner on top?
        span_tokens, span_top1, rest_tokens, rest_top1: the same within the planted span, and in the rest of the same
            responses; of responses that hold both.
        span_precision: of these tokens, where an owner is on top, the share within the span; its chance is the span's
            share of all of them.
        span_auroc: how likely owners have a larger part of `sum |T|` of a token of the span than of one of the rest;
            chance is 0.5.
    """
    count = owners.sum(axis=1)
    told = (count > 0) & (count < owners.shape[1])
    values, wanted, inside = tokens.contributions[told], owners[told], planted[told]
    numbers = tokens.inputs[told]
    first = hit(order(ranks(values)), wanted)
    both = np.isin(numbers, np.intersect1d(numbers[inside], numbers[~inside]))
    span, rest = first[both & inside], first[both & ~inside]
    named = float(span.sum() + rest.sum())
    whole = np.abs(values).sum(axis=1)
    part = (values * wanted).sum(axis=1) / np.where(whole > 0, whole, 1.0)
    return {
        "tokens": int(told.sum()),
        "token_top1": mean_there(first),
        "token_top1_chance": mean_there(wanted.mean(axis=1)),
        "span_tokens": len(span),
        "span_top1": mean_there(span),
        "rest_tokens": len(rest),
        "rest_top1": mean_there(rest),
        "span_precision": float(span.sum()) / named if named else np.nan,
        "span_precision_chance": len(span) / (len(span) + len(rest)) if both.any() else np.nan,
        "span_auroc": auroc(part[both], inside[both]),
    }


def _rows(whole: Order, keep: np.ndarray) -> Order:
    return Order(whole.first[keep], whole.last[keep])
