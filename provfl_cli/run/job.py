"""One run, from a validated configuration to the files of its folder: here the parts are put together."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config.environment import masked
from ..config.schema import Config
from ..evaluation.truth import rounds_retrained
from ..federation.participation import Roster, without
from ..federation.train import federated_rounds
from ..federation.warm_start import has_base
from ..fusion.accounting import figures as privacy_figures
from ..fusion.accounting import ledger_of, told
from ..reporting import console as show
from ..results import diagnosis, label_counts
from ..results.checksums import BASE, FILE, TOKENIZER, covering
from ..results.files import plain, write_csv, write_json, write_jsonl, write_parquet, write_text
from ..results.retrainings import RETRAINED, RETRAININGS
from ..store.cache import in_use
from ..store.rounds import Metrics
from ..store.tensorfile import write_tensors
from ..trackers.tracking import settings_of, tracked
from .clearing import clear
from .findings import Findings, findings_of, newcomers
from .manifest import architecture, inputs_read, manifest, weights_from
from .prepared import Prepared, prepared
from .private_part import frozen_tensors
from .retrained import removals, retrain
from .shown import show_files, show_findings, show_rounds, show_verdict, show_warnings
from .summary import costs, measured, round_rows
from .traced_rounds import trace_rounds
from .watch import Watch
from .written import write_findings


def run(config: Config, folder: Path, quiet: bool = False) -> None:
    """Load data, train (or find) the federation, trace the rounds asked for, write files and print tables.

    A tracker that fails does not end the run. `quiet`, of many in a row: only how far it is, and warnings, are shown.

    Raises:
        InputError: data or model do not fit the configuration.
        RunError: training diverged, a worker died, conservation failed, a file could not be written.
    """
    console, live = show.make_console(), show.make_console()
    console.quiet = quiet
    with tracked(config.tracker, live) as tracking:
        began = time.perf_counter()
        ready = prepared(config, console)
        config = ready.config
        data, model, counts = ready.data, ready.model, ready.counts
        initial = copy.deepcopy(model) if ready.retrains else model
        loaded = time.perf_counter()

        clear(folder)
        if ready.frozen is not None and has_base(config, data):  # which is nowhere else
            write_tensors(folder / BASE, frozen_tensors(model, ready.sharing))
        generates = config.task == "generate"
        watch, cache = Watch(console, live, folder, tracking, generates), Path(config.store.cache)
        with (
            federated_rounds(config, data, model, cache, ready.wanted, ready.device, watch, folder) as rounds,
            watch.progress,
        ):
            if config.tracker is not None:
                tracking.start(settings_of(config), folder, config.environment)
            traced = trace_rounds(ready, rounds, folder, live)
        write_jsonl(folder / "metrics.jsonl", round_rows(watch.history or traced.history, generates))
        if traced.diagnosis is not None:
            diagnosis.write(folder, traced.diagnosis)
        tracking.rounds(traced.history)

        roster = _as_happened(ready, traced.history)
        fused = [[work.position for work in members.fused] for members in roster]
        examples = sum(ready.examples.values())
        spent = config.privacy.spent(ledger_of(config.federation, config.fusion, len(data.clients), fused, examples))
        retrainings = None
        if traced.questions.asked:
            whole = traced.questions.whole(config, data, initial, ready.device, ready.others)
            ranked = [each.contributions for each in traced.rounds]
            plan = [*ready.plan, *removals(config.retrain, config.seed, data, ranked)]
            with in_use(traced.place):  # else it might be pruned to make room
                full = traced.questions.full(traced.place.parent.name)
                retrainings = retrain(whole, traced.questions.asked, full, plan, live)
            write_csv(folder / RETRAININGS, retrainings.made)
            write_parquet(folder / RETRAINED, retrainings.predictions)
        said = [f"{len(counts)} clients, {config.federation.rounds} rounds, {config.federation.optimizer}"]
        said += [*([] if spent is None else [told(spent)]), *([traced.whose] if traced.whose else [])]
        said += [] if retrainings is None else retrainings.notes
        truth = (
            None if retrainings is None else rounds_retrained(retrainings.made, retrainings.predictions, list(counts))
        )
        findings = findings_of(
            traced.rounds,
            data,
            config.evaluation.min_examples,
            newcomers(roster, list(counts)),
            said,
            truth,
            traced.success,
        )
        figures = {
            **measured(config.provenance.name, findings.scores, traced.rounds, traced.history[-1], generates),
            **({} if retrainings is None else retrainings.figures),
            "threshold": config.threshold,
            "seed": config.seed,
            "clients_kept": len(counts),
            **ready.names,
            "fusion": type(config.fusion).__name__.lower(),
            **privacy_figures(spent),
            "engine": config.engine.name,
            **costs(traced.rounds, watch.ended.seconds, watch.ended.cached_seconds),
        }
        seconds = {
            "load": loaded - began,
            "train": watch.ended.seconds,
            "trace": sum(traced_round.seconds for traced_round in traced.rounds),
            **({} if retrainings is None else {"retrain": retrainings.seconds}),
            "total": time.perf_counter() - began,
        }
        _write(ready, folder, findings, figures, roster, traced.place.parent.name, seconds)

        show_verdict(console, folder, findings, config.provenance.name)
        show_warnings(live, findings.warnings)
        show_rounds(console, round_rows(traced.history, generates))
        costly = bool(config.attribution)
        show_findings(console, findings, config.provenance.name, data, counts, config.evaluation.inputs, costs=costly)
        show_files(console, folder)
        tracking.results(figures, findings.scores, findings.note, folder)


def _as_happened(ready: Prepared, history: Sequence[Metrics]) -> Sequence[Roster]:
    """Who did what in each round, without those who failed."""
    positions = {client.id: position for position, client in enumerate(ready.data.clients)}
    failed = {metrics.round: [positions[client] for client in metrics.failed] for metrics in history}
    return without(ready.roster, failed)


def _write(
    ready: Prepared,
    folder: Path,
    findings: Findings,
    figures: dict[str, Any],
    roster: Sequence[Roster],
    key: str,
    seconds: dict[str, float],
) -> None:
    """All files of a run but the history and what was trained again, which are there already; the manifest last."""
    config, data = ready.config, ready.data
    write_findings(folder, findings, data.label_names)
    if data.tokenizer is not None:
        write_text(folder / TOKENIZER, data.tokenizer)
    write_csv(folder / "participation.csv", ready.participation(roster))
    write_csv(folder / label_counts.FILE, label_counts.frame(ready.counts))
    write_json(folder / "summary.json", figures)
    weights = weights_from(data.form, bool(config.model.pretrained), has_base(config, data))
    made_of = {
        "key": key,
        "seed": config.seed,
        "inputs": masked(inputs_read(data), config.environment, "dataset"),
        "model": {
            **masked({"name": config.model.name, "weights": weights}, config.environment, "model"),
            **architecture(data.form, ready.model),
            **({} if ready.frozen is None else {"frozen_sha256": ready.frozen}),
        },
        **manifest(data, ready.device, seconds, findings.last.trace),
    }
    write_json(folder / FILE, covering(folder, plain(made_of)))  # the last, since it covers the others
