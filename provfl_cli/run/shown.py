"""What a run shows on the console, part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.text import Text

from ..config.schema import Federation
from ..data.federated import Dialogues, FederatedData
from ..harmless import harmless
from ..reporting import console as show
from ..reporting import participation, suspicion
from ..reporting.lineage import show_fading
from ..reporting.rankings import example_rankings, show_rankings
from ..reporting.tables import cost_table, localization_tables
from ..results import diagnosis
from ..results.links import ROUNDS
from ..store.cost import cost_of
from .findings import Findings
from .written import WRITTEN


def show_header(
    console: Console, data: FederatedData, model: str, federation: Federation, fusion: str, device: str, seed: int
) -> None:
    """What is about to run: data, model and fusion by their names, the size of the federation, where it is trained."""
    source, kept = data.source, len(data.clients)
    examples = f"{source.name} ({source.train_examples:,} + {source.test_examples:,} examples)"
    a_round = federation.clients_per_round or kept
    clients = f"{kept} clients, {a_round} a round" if a_round < kept else f"{kept} clients"
    if federation.mode == "fedbuff":
        clients = f"{kept} clients, {min(federation.concurrency or kept, kept)} at work, buffers of {a_round}"
    size = f"{clients}, {federation.rounds} round{'s' if federation.rounds > 1 else ''}"
    console.print(show.header(examples, model, size, fusion, device, seed, data.lines))


def show_clients(
    console: Console, counts: Mapping[int, np.ndarray], label_names: Sequence[str], min_examples: int
) -> None:
    """Clients and their labels; from `min_examples` on a client holds a label."""
    console.print(show.heading("Clients and their labels"))
    console.print(show.labels(counts, label_names, min_examples))
    console.print()


def show_participation(console: Console, planned: pd.DataFrame, clients: Sequence[int], rounds: int) -> None:
    """Who takes part when, of these clients; nothing where all do in every round."""
    if (planned["status"] != "trained").any() or len(planned) < rounds * len(clients):
        console.print(show.heading("Who takes part when"))
        console.print(participation.table(planned, clients))
        console.print()


def show_verdict(console: Console, folder: Path, findings: Findings, method: str) -> None:
    """Who is behind the mistakes, in a sentence: the diagnosis' one, or, where none was made, who is on top of most."""
    made = diagnosis.read(folder)
    sentence = _most_on_top(findings, method) if made is None else made.sentence
    if sentence:
        console.print()
        console.print(Text(harmless(sentence), style="bold"))


def _most_on_top(findings: Findings, method: str) -> str:
    """Of the mistakes traced, how many have the same client on top; "" where none was traced, or many share them."""
    rows = findings.last.contributions
    wrong = rows[(rows["method"] == method) & (rows["scope"] == "round") & (rows["label"] != rows["prediction"])]
    if not len(wrong) or findings.last.tokens is not None:
        return ""
    tops = wrong[wrong["rank"] == 1]["client"].value_counts()
    inputs = wrong["input"].nunique()
    candidates = wrong["client"][wrong["rank"].notna()].nunique()
    if not len(tops) or inputs < 2 or tops.iloc[0] * 2 < inputs:  # nobody is on top of half of them
        return ""
    return (
        f"Client {int(tops.index[0])} is on top of {tops.iloc[0]:,} of the {inputs:,} mistakes traced "
        f"(a client drawn at random: {inputs / candidates:,.0f}); provfl trace --verify shows whether they go "
        "without it."
    )


def show_warnings(console: Console, warnings: Sequence[str]) -> None:
    """What the last trace leaves out."""
    for line in warnings:
        console.print(Text(f"warning: {line}", style="bold yellow"))


def show_rounds(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """How the rounds went."""
    console.print(show.heading("Rounds"))
    console.print(show.rounds(rows))


def show_findings(
    console: Console,
    findings: Findings,
    method: str,
    data: FederatedData,
    counts: Mapping[int, np.ndarray],
    inputs: str,
    costs: bool,
) -> None:
    """Rankings of some inputs of the last traced round, its tables, and how clients' shares of a label fade.

    Args:
        console: where to.
        findings: of the run.
        method: the run's own way of tracing, by its name.
        data: of the clients and the server.
        counts: training examples of each client by label, int `[classes]`.
        inputs: which were to be traced (`evaluation.inputs`), said where there was none.
        costs: whether to show what each method took.
    """
    last = findings.last
    if last.trace is None:
        kind = "" if inputs == "all" else f"{inputs} "
        console.print(f"no {kind}{_traced(data)} to trace: evaluation.inputs chooses which are traced")
    else:
        rows = last.contributions
        own = rows[(rows["method"] == method) & (rows["scope"] == "round")]
        console.print(show.heading(f"Who is responsible? Examples from round {last.number}"))
        shown = dict(zip(data.test.indices.tolist(), data.test.shown, strict=True))
        expected = None
        if isinstance(data.form, Dialogues):
            said = last.inputs[["input", "prompt", "response", "expected"]].itertuples(index=False, name=None)
            texts = {number: (prompt, response, wanted) for number, prompt, response, wanted in said}
            shown = {number: f"{prompt}\n{response}" for number, (prompt, response, _) in texts.items()}
            expected = {number: wanted.strip() == response.strip() for number, (_, response, wanted) in texts.items()}
        examples = example_rankings(own, counts, data.label_names, shown, data.faults.clients, expected=expected)
        console.print(show_rankings(examples))
        console.print()
        tables = localization_tables(findings.scores[findings.scores["round"] == last.number], findings.truth)
        took = [cost_table(last.method_seconds, len(last.selection.inputs))] if costs else []
        console.print(show.localization([*tables, *took], findings.note))
    if last.suspicion is not None:
        console.print(show.heading(f"Suspicion: which clients of round {last.number} are unlike the others"))
        console.print(suspicion.table(last.suspicion))
        console.print()
    if findings.faded is not None:
        console.print(show.heading("Forgetting: clients' shares of a label over the rounds"))
        console.print(show_fading(findings.faded, data.label_names))
        console.print()


def show_files(console: Console, folder: Path) -> None:
    """What the run has left in its folder."""
    console.print(show.heading("Results"))
    written = {name: meaning for name, meaning in WRITTEN.items() if (folder / name).exists()}
    if (cost := cost_of(folder / ROUNDS)) is not None:
        written[ROUNDS] = f"{written[ROUNDS]}: {cost}"
    console.print(show.files(folder, written, Path.cwd()))


def _traced(data: FederatedData) -> str:
    """What is traced; that a response is right, its topic tells, not its words."""
    return "response (judged by its topic)" if isinstance(data.form, Dialogues) else "prediction"
