"""One run, from a validated configuration to the files of its folder."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.text import Text

from ..config.environment import masked
from ..config.schema import Config
from ..config.validate import provenance_preset
from ..data.federated import FederatedData
from ..data.load import check_functions, federated_data
from ..evaluation.fading import fading
from ..evaluation.metrics import localization
from ..federation.events import (
    ClientFailed,
    ClientFinished,
    EngineStarting,
    Event,
    RoundFinished,
    RoundMissing,
    RoundsReused,
    RoundStarted,
    TrainingEnded,
    WaitingForProcess,
)
from ..federation.participation import Roster, rosters, without
from ..federation.train import federated_rounds
from ..fusion.accounting import PrivacySpent, ledger_of, told
from ..models.build import build, check_function
from ..provenance.settings import Provenance
from ..reporting import console as show
from ..reporting import participation
from ..reporting.figure_files import write_figure
from ..reporting.lineage import figure, show_fading
from ..reporting.progress import RoundProgress
from ..reporting.rankings import example_rankings, show_rankings
from ..reporting.tables import cost_table, localization_tables, to_latex, to_markdown
from ..results import label_counts
from ..results.checksums import FILE, TOKENIZER, covering
from ..results.files import plain, write_csv, write_json, write_jsonl, write_parquet, write_text
from ..results.participation import participation_frame
from ..store.rounds import Metrics
from ..trackers.tracking import Tracking, tracked
from .checks import check_fit
from .clearing import clear, link_rounds
from .device import choose_device
from .manifest import manifest
from .summary import summary
from .tracing import TracedRound, trace_round

WRITTEN = {
    "table.md": "localization accuracy beside chance (table.tex: the same for a paper)",
    "localization.csv": "every metric, by method and round",
    "contributions.parquet": "each client's contribution to each traced prediction",
    "inputs.parquet": "the traced inputs; layers.parquet: a sample of them, layer by layer",
    "summary.json": "the final figures",
    "participation.csv": "who took part when; clients.csv: training examples of each client by label",
    "manifest.json": "versions, data, times, memory; metrics.jsonl: the rounds",
    TOKENIZER: "turns texts into the tokens that the model reads",
    "lineage.png": "how clients' shares of a label fade over the rounds (lineage.pdf: for a paper)",
    "tensorboard": "event files for TensorBoard",
    "wandb": "the run of Weights & Biases",
    "flower.log": "what Flower and Ray had to say",
    "rounds": "the models of the rounds kept, in the training cache",
}


class Watch:
    """What training reports as it goes: display and tracker follow it, and the history is kept for the files."""

    def __init__(self, console: Console, folder: Path, tracking: Tracking) -> None:
        self.console = console
        self.folder = folder
        self.tracking = tracking
        self.progress = RoundProgress(console)
        self.history: list[Metrics] = []
        self.ended = TrainingEnded(0, 0.0, 0.0)

    def __call__(self, event: Event) -> None:
        """Take one event in."""
        match event:
            case RoundsReused():
                self.history = list(event.history)
                self.tracking.rounds(self.history)
                self.console.print(f"rounds 1 to {event.rounds}: in the cache, trained in {event.seconds:.1f} s")
            case RoundMissing():
                begin = f"round {event.start}" if event.start else "the start"
                self.console.print(f"round {event.number} was not kept: trained again from {begin}")
            case WaitingForProcess():
                self.console.print("another process trains the same federation: waiting for its rounds")
            case EngineStarting():
                log = os.path.relpath(event.log)
                self.console.print(Text(f"{event.told}; what it says itself is in {log}"))
            case RoundStarted():
                self.progress.round_started(event.number, event.rounds, len(event.clients))
            case ClientFinished():
                self.progress.client_finished()
            case ClientFailed():
                self.console.print(Text(f"{event.reason}: {'asked again' if event.again else 'dropped out'}"))
            case RoundFinished():
                self.history = [m for m in self.history if m.round != event.number] + [event.metrics]
                self.progress.round_finished(event.number, asdict(event.metrics))
                write_jsonl(self.folder / "metrics.jsonl", map(asdict, sorted(self.history, key=lambda m: m.round)))
                self.tracking.rounds([event.metrics])
            case TrainingEnded():
                self.ended = event


def run(config: Config, folder: Path) -> None:
    """Load data, train (or find) the federation, trace the rounds asked for, write files and print tables.

    A tracker that fails does not end the run.

    Raises:
        InputError: data or model do not fit the configuration.
        RunError: training diverged, a worker died, conservation failed, a file could not be written.
    """
    console = show.make_console()
    with tracked(config.tracker, console) as tracking:
        _run(config, folder, console, tracking)


def _run(config: Config, folder: Path, console: Console, tracking: Tracking) -> None:
    began = time.perf_counter()
    device = choose_device(config.device)
    check_function(config.model)  # what somebody named is asked whether it can serve before data are read
    check_functions(config.dataset)
    data = _as_written(federated_data(config), config)
    model = build(config.model, data.form, len(data.label_names), config.seed)
    check_fit(config, data, model)
    counts = {client.id: client.label_counts for client in data.clients}
    _print_header(console, config, data, device, counts)
    roster = rosters(config.federation, list(counts), _examples(data), config.seed, config.federation.rounds)
    who = participation_frame(roster, list(counts), config.federation)
    if (who["status"] != "trained").any() or len(who) < len(roster) * len(counts):
        console.print(show.heading("Who takes part when"))
        console.print(participation.table(who, list(counts)))
        console.print()
    loaded = time.perf_counter()

    clear(folder)
    methods, wanted = _methods(config), _wanted(config)
    watch, traced = Watch(console, folder, tracking), list[TracedRound]()
    with (
        federated_rounds(config, data, model, Path(config.store.cache), wanted, device, watch, folder) as rounds,
        watch.progress,
    ):
        tracking.start(config, folder)
        for stored in rounds:
            traced.append(trace_round(config, methods, data, model, stored, counts, device))
            link_rounds(folder, stored)
            history, key = stored.history, stored.folder.parent.parent.name
    write_jsonl(folder / "metrics.jsonl", map(asdict, watch.history or history))
    tracking.rounds(history)

    positions = {client.id: position for position, client in enumerate(data.clients)}
    roster = without(roster, {metrics.round: [positions[client] for client in metrics.failed] for metrics in history})
    who = participation_frame(roster, list(counts), config.federation)
    contributions = pd.concat([traced_round.contributions for traced_round in traced], ignore_index=True)
    scores = _scores(contributions, traced, counts, config, data, _newcomers(roster, list(counts)))
    accuracy = history[-1].accuracy
    spent = _spent(config, data, roster)
    last = traced[-1]
    warnings = () if last.trace is None else last.trace.warnings
    note = "; ".join([*warnings, data.source.note, *([] if spent is None else [told(spent)]), *last.notes])
    figures = summary(
        config, scores, traced, accuracy, watch.ended.seconds, watch.ended.cached_seconds, spent, len(counts)
    )
    seconds = {
        "load": loaded - began,
        "train": watch.ended.seconds,
        "trace": sum(traced_round.seconds for traced_round in traced),
        "total": time.perf_counter() - began,
    }
    _write(folder, traced, contributions, scores, data, note)
    write_csv(folder / "participation.csv", who)
    write_csv(folder / label_counts.FILE, label_counts.frame(counts))
    faded = fading(contributions[contributions["scope"] == "lineage"], counts, last.last) if last.last else None
    if faded is not None:
        write_figure(folder, "lineage", figure(faded, data.label_names))
    write_json(folder / "summary.json", figures)
    made_of = {"key": key, **manifest(config, data, model, device, seconds, last.trace)}
    write_json(folder / FILE, covering(folder, plain(made_of)))  # the last, since it covers the others
    _print_results(console, config, data, history, scores, last, counts, note)
    if faded is not None:
        console.print(show.heading("Forgetting: clients' shares of a label over the rounds"))
        console.print(show_fading(faded, data.label_names))
        console.print()
    console.print(show.heading("Results"))
    written = {name: meaning for name, meaning in WRITTEN.items() if (folder / name).exists()}
    console.print(show.files(folder, written, Path.cwd()))
    tracking.results(figures, scores, note, folder)


def _as_written(data: FederatedData, config: Config) -> FederatedData:
    """`data`, what is said of them without values of the environment."""
    said = {name: getattr(data.source, name) for name in ("name", "location", "note")}
    taken = config.environment
    source = replace(data.source, **masked(said, taken, "dataset"))
    return replace(data, source=source, lines=masked(data.lines, taken, "dataset", "model"))


def _examples(data: FederatedData) -> list[int]:
    return [len(client.labels) for client in data.clients]


def _spent(config: Config, data: FederatedData, roster: Sequence[Roster]) -> PrivacySpent | None:
    """What the federation gave away about any one client; None where nothing was to be kept private."""
    fused = [[work.position for work in round_roster.fused] for round_roster in roster]
    return config.privacy.spent(ledger_of(config.federation, config.fusion, len(data.clients), fused))


def _newcomers(roster: Sequence[Roster], ids: Sequence[int]) -> dict[int, set[int]]:
    """By round, the clients whose work is fused there for the first time; `ids` are the numbers of those kept."""
    known, newcomers = set[int](), dict[int, set[int]]()
    for round_roster in roster:
        newcomers[round_roster.number] = {ids[work.position] for work in round_roster.fused} - known
        known |= newcomers[round_roster.number]
    return newcomers


def _methods(config: Config) -> list[Provenance]:
    """The run's own way of tracing, and the artifact's beside it."""
    own = config.provenance
    if not config.tracefl_beside or own.name == "tracefl":
        return [own]
    return [own, provenance_preset("tracefl")]


def _wanted(config: Config) -> set[int]:
    rounds = config.federation.rounds
    asked = config.provenance.rounds
    if asked == "last":
        return {rounds}
    return set(range(1, rounds + 1)) if asked == "all" else set(asked)


def _scores(
    contributions: pd.DataFrame,
    traced: list[TracedRound],
    counts: Mapping[int, np.ndarray],
    config: Config,
    data: FederatedData,
    newcomers: Mapping[int, Collection[int]],
) -> pd.DataFrame:
    """The metrics; predictions whose label nobody holds were passed over before the trace, and are counted here."""
    scores = localization(contributions, counts, config.evaluation.min_examples, data.faults, newcomers)
    passed_over = {traced_round.number: traced_round.selection.no_holder for traced_round in traced}
    scores["no_holder"] += scores["round"].map(passed_over).astype(scores["no_holder"].dtype)
    return scores


def _write(
    folder: Path,
    traced: list[TracedRound],
    contributions: pd.DataFrame,
    scores: pd.DataFrame,
    data: FederatedData,
    note: str,
) -> None:
    write_parquet(folder / "contributions.parquet", contributions)
    inputs = pd.concat([traced_round.inputs for traced_round in traced], ignore_index=True)
    write_parquet(folder / "inputs.parquet", inputs)
    layers = pd.concat([traced_round.layers for traced_round in traced], ignore_index=True)
    write_parquet(folder / "layers.parquet", layers)
    write_csv(folder / "localization.csv", scores)
    tables = localization_tables(scores)
    write_text(folder / "table.md", to_markdown(tables, note))
    write_text(folder / "table.tex", to_latex(tables, note))
    if data.tokenizer is not None:
        write_text(folder / TOKENIZER, data.tokenizer)


def _print_header(
    console: Console, config: Config, data: FederatedData, device: torch.device, counts: Mapping[int, np.ndarray]
) -> None:
    kept, federation = len(data.clients), config.federation
    a_round = federation.clients_per_round or kept
    clients = f"{kept} clients, {a_round} a round" if a_round < kept else f"{kept} clients"
    console.print(
        show.header(
            f"{data.source.name} ({data.source.train_examples:,} + {data.source.test_examples:,} examples)",
            masked(config.model.name, config.environment, "model"),
            f"{clients}, {federation.rounds} round{'s' if federation.rounds > 1 else ''}",
            type(config.fusion).__name__,
            str(device),
            config.seed,
            data.lines,
        )
    )
    console.print(show.heading("Clients and their labels"))
    console.print(show.labels(counts, data.label_names, config.evaluation.min_examples))
    console.print()


def _print_results(
    console: Console,
    config: Config,
    data: FederatedData,
    history: tuple[Metrics, ...],
    scores: pd.DataFrame,
    last: TracedRound,
    counts: Mapping[int, np.ndarray],
    note: str,
) -> None:
    for line in () if last.trace is None else last.trace.warnings:
        console.print(Text(f"warning: {line}", style="bold yellow"))
    console.print(show.heading("Rounds"))
    console.print(show.rounds([asdict(metrics) for metrics in history]))
    if last.trace is None:
        kind = "" if config.evaluation.inputs == "all" else f"{config.evaluation.inputs} "
        console.print(f"no {kind}prediction to trace: evaluation.inputs chooses which are traced")
    else:
        rows = last.contributions
        own = rows[(rows["method"] == config.provenance.name) & (rows["scope"] == "round")]
        console.print(show.heading(f"Who is responsible? Examples from round {last.number}"))
        shown = dict(zip(data.test.indices.tolist(), data.test.shown, strict=True))
        console.print(show_rankings(example_rankings(own, counts, data.label_names, shown, data.faults.clients)))
        console.print()
        tables = localization_tables(scores[scores["round"] == last.number])
        costs = [cost_table(last.method_seconds, len(last.selection.inputs))] if config.attribution else []
        console.print(show.localization([*tables, *costs], note))
