"""Which clients are behind a few example predictions: the picture beside the ranked clients, or the text above them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..harmless import harmless
from ..results.answer import RankedClient
from .drawing import Picture, bars_from_zero
from .texts import Excerpt

if TYPE_CHECKING:
    import pandas as pd

NOBODYS = "nothing that is taught"  # of a response: no topic
SHARE = "share: softmax over clients"
TIED_SHOWN = 3  # clients of a set of tied ones that are named


@dataclass(frozen=True)
class Ranking:
    """One traced prediction: its best candidates, best first, of `candidates` in all; no set of tied ones is cut.

    `shown` is the input for people: pixels uint8 `[height, width, channels]`, or its text. `expected`, of a response
    alone: whether it is, word by word, the one that the data have.
    """

    input: int
    label: str
    prediction: str
    clients: tuple[RankedClient, ...]
    candidates: int
    shown: np.ndarray | str
    expected: bool | None = None


def example_rankings(
    trace: pd.DataFrame,
    label_counts: Mapping[int, np.ndarray],
    label_names: Sequence[str],
    shown: Mapping[int, np.ndarray | str],
    faulty: Collection[int] = (),
    limit: int = 3,
    top: int = 5,
    expected: Mapping[int, bool] | None = None,
) -> list[Ranking]:
    """The rankings of the first inputs of `limit` different labels, `top` clients each, and who is tied with the last.

    Args:
        trace: the rows of one method and one round of a tidy frame.
        label_counts: training examples by label of each client.
        label_names: one a label.
        shown: by input number, pixels uint8 `[height, width, channels]`, or texts.
        faulty: numbers of the clients that were planted.
        limit: how many inputs.
        top: how many clients for each.
        expected: of responses, by input number, whether each is the one that the data have; None: no responses.
    """
    ranked = trace[(trace["kind"] == "client") & trace["rank"].notna()]
    heads = ranked.drop_duplicates("label").sort_values("label").head(limit)
    return [
        _ranking(ranked[ranked["input"] == head], label_counts, label_names, shown, faulty, top, expected)
        for head in heads["input"]
    ]


def _ranking(
    rows: pd.DataFrame,
    label_counts: Mapping[int, np.ndarray],
    label_names: Sequence[str],
    shown: Mapping[int, np.ndarray | str],
    faulty: Collection[int],
    top: int,
    expected: Mapping[int, bool] | None,
) -> Ranking:
    label, prediction, index = (int(rows.iloc[0][key]) for key in ("label", "prediction", "input"))
    return Ranking(
        input=index,
        label=label_names[label],
        prediction=label_names[prediction] if prediction >= 0 else NOBODYS,
        clients=best_clients(rows, top, label_counts, label, faulty=faulty),
        candidates=len(rows),
        shown=shown[index],
        expected=None if expected is None else expected[index],
    )


def best_clients(
    rows: pd.DataFrame,
    top: int,
    label_counts: Mapping[int, np.ndarray],
    label: int,
    also: int | None = None,
    faulty: Collection[int] = (),
    names: Mapping[int, str] | None = None,
) -> tuple[RankedClient, ...]:
    """The best `top` clients for one input, best first, and who is tied with the last of them.

    Args:
        rows: of one method, round and input of a tidy frame: the candidates.
        top: how many.
        label_counts: training examples by label of each client; of clients that are not in it nothing is known.
        label: whose examples are counted.
        also: a second one; None: no other.
        faulty: numbers of the clients that were planted.
        names: what clients are called, by number; of others their number.
    """
    ordered = rows.sort_values(["rank", "contribution", "client"], ascending=[True, False, True])
    best = ordered[ordered["rank"] <= ordered["rank"].iloc[:top].max()]

    def examples(client: int, of: int | None) -> int | None:
        return int(label_counts[client][of]) if client in label_counts and of is not None else None

    return tuple(
        RankedClient(
            client=client,
            rank=int(row["rank"]),
            contribution=float(row["contribution"]),
            share=float(row["share"]),
            examples=examples(client, label),
            tie=bool(row["tie"]),
            faulty=client in faulty,
            also=examples(client, also),
            name=(names or {}).get(client, ""),
        )
        for client, row in zip(best["client"].astype(int), best.to_dict("records"), strict=True)
    )


def show_rankings(rankings: Sequence[Ranking]) -> RenderableType:
    """The rankings one below the other. Bars show contributions, relative to the largest of the input shown."""
    if not rankings:
        return Text("no input was traced", style="dim")
    parts: list[RenderableType] = []
    for ranking in rankings:
        if isinstance(ranking.shown, str):
            parts += [_title(ranking), Excerpt(ranking.shown), clients_table(ranking.clients)]
        else:
            beside = Table.grid(padding=(0, 2))
            beside.add_column()
            beside.add_column()
            beside.add_row(Picture(ranking.shown), Group(_title(ranking), clients_table(ranking.clients)))
            parts.append(beside)
        parts.append(Text())
    return Group(*parts, Text(f"{SHARE}; examples: of the true label, in the client's training data", style="dim"))


def _title(ranking: Ranking) -> RenderableType:
    right = ranking.label == ranking.prediction
    told: list[str | tuple[str, str]]
    if ranking.expected is None:
        told = [f"  predicted {harmless(ranking.prediction)}, "]
        told += [("which is right", "green") if right else (f"labelled {harmless(ranking.label)}", "red")]
    else:
        told = [f"  about {harmless(ranking.label)}, "]
        told += [("the expected response", "green") if ranking.expected else ("not the expected response", "red")]
        told += [] if right else [f": {harmless(ranking.prediction)}"]
    return Text.assemble(
        (f"input {ranking.input}", "bold"),
        *told,
        (f"  top {len(ranking.clients)} of {ranking.candidates}", "dim"),
    )


def clients_table(ranked: Sequence[RankedClient], headings: tuple[str, str] = ("examples", "")) -> RenderableType:
    """Ranked clients with bars of their contributions, tied ones in one row.

    `headings` are those of the columns with `Ranked.examples` and `Ranked.also`, each left out where nothing is known.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("client", justify="right", overflow="fold", min_width=6)
    table.add_column("contribution", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    counts = [[client.examples for client in ranked], [client.also for client in ranked]]
    shown = [column for column, values in enumerate(counts) if any(value is not None for value in values)]
    for column in shown:
        longest = max(map(len, headings[column].split()), default=0)
        table.add_column(headings[column], justify="right", overflow="fold", min_width=longest)
    table.add_column("", no_wrap=True)
    largest = max((abs(client.contribution) for client in ranked), default=0.0)
    decimals = min(max(3 - math.floor(math.log10(largest)), 0), 6) if largest > 0 else 0
    tied = [list(group) for _, group in groupby(ranked, key=lambda client: client.rank)]
    drawn = bars_from_zero([together[0].contribution for together in tied], 10)
    for together, bar in zip(tied, drawn, strict=True):
        first = together[0]
        colour = "cyan" if first.contribution >= 0 else "red"
        table.add_row(
            str(first.rank),
            _names(together),
            Text.assemble(f"{first.contribution:>9,.{decimals}f} ", (bar, colour)),
            f"{first.share:.1%}",
            *(_range([(client.examples, client.also)[column] for client in together]) for column in shown),
            Text(_marks(together), style="yellow"),
        )
    return table


def _names(tied: Sequence[RankedClient]) -> str:
    """Client numbers, `3 = 5` for tied ones; the end of a long list is counted."""
    numbers = [harmless(client.name or str(client.client)) for client in tied]
    more = len(numbers) - TIED_SHOWN
    return " = ".join(numbers) if more <= 0 else " = ".join([*numbers[:TIED_SHOWN], f"{more} more"])


def _range(counts: Sequence[int | None]) -> str:
    known = [count for count in counts if count is not None]
    if not known:
        return "–"
    least, most = min(known), max(known)
    return f"{least:,}" if least == most else f"{least:,}–{most:,}"


def _marks(tied: Sequence[RankedClient]) -> str:
    faulty = [client.name or client.client for client in tied if client.faulty]
    if len(tied) == 1:
        return "faulty" if faulty else ""
    return " ".join(["tied", *(["faulty:", ", ".join(map(str, faulty))] if faulty else [])])
