"""One run, from a validated configuration to the files of its folder: here the parts are put together."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.text import Text

from ..attribution.method import attributions
from ..config.environment import EnvironmentValue, masked
from ..config.schema import Config
from ..config.validate import provenance_preset
from ..data.federated import FederatedData
from ..data.load import check_functions, federated_data
from ..evaluation.backdoor import AttackSuccess
from ..evaluation.truth import rounds_retrained
from ..federation.client import steps_made
from ..federation.participation import rosters, without
from ..federation.sharing import sharing_of
from ..federation.train import federated_rounds
from ..federation.warm_start import initial_model
from ..fusion.accounting import figures as privacy_figures
from ..fusion.accounting import ledger_of, told
from ..fusion.privacy import check_model
from ..models.build import check_function
from ..provenance.depth import chosen_layers
from ..provenance.lineage import lineage_round
from ..provenance.merged import load_round
from ..provenance.settings import Provenance
from ..reporting import console as show
from ..results import label_counts
from ..results.checksums import FILE, TOKENIZER, covering
from ..results.files import plain, write_csv, write_json, write_jsonl, write_parquet, write_text
from ..results.participation import participation_frame
from ..results.retrainings import RETRAINED, RETRAININGS
from ..store.cache import in_use
from ..trackers.tracking import settings_of, tracked
from .backdoor import measured_success
from .checks import check_attackers, check_batches, check_precision, make_cache
from .clearing import clear, link_rounds
from .device import choose_device
from .findings import findings_of, newcomers
from .manifest import architecture, inputs_read, manifest, weights_from
from .private_part import check_client, complete, frozen_digest, to_complete
from .retrained import Questions, before_training, others_of, plan_of, removals, retrain
from .shown import show_clients, show_files, show_findings, show_header, show_participation, show_rounds
from .summary import costs, measured
from .tracing import TracedRound, case_of, choose_inputs, trace_round
from .watch import Watch
from .written import write_findings


def run(config: Config, folder: Path) -> None:
    """Load data, train (or find) the federation, trace the rounds asked for, write files and print tables.

    A tracker that fails does not end the run.

    Raises:
        InputError: data or model do not fit the configuration.
        RunError: training diverged, a worker died, conservation failed, a file could not be written.
    """
    console = show.make_console()
    with tracked(config.tracker, console) as tracking:
        began = time.perf_counter()
        federation, evaluation, own = config.federation, config.evaluation, config.provenance
        device = choose_device(config.device)
        check_function(config.model)  # what somebody named is asked whether it can serve before data are read
        check_functions(config.dataset)
        data = _as_written(federated_data(config), config.environment)
        model = initial_model(config, data, say=partial(console.print, style="bold"))
        sharing = sharing_of(model, federation, config.model.adapter)
        check_precision(federation.precision, config.device)
        check_model(config.privacy, model, sharing.shared)
        chosen_layers(dict(model.named_modules()), own.layers)
        check_batches(federation.batch_size, data, config.model.name, model)
        make_cache(Path(config.store.cache))
        names = {
            "dataset": masked(config.dataset.name, config.environment, "dataset"),
            "model": masked(config.model.name, config.environment, "model"),
        }
        counts = {client.id: client.label_counts for client in data.clients}
        examples = {client.id: len(client.labels) for client in data.clients}
        check_client(evaluation.client, sharing, examples)
        frozen, whose = frozen_digest(model, sharing), ""
        fusion = type(config.fusion).__name__
        show_header(console, data, names["model"], federation, fusion, str(device), config.seed)
        show_clients(console, counts, data.label_names, evaluation.min_examples)
        roster = rosters(federation, list(counts), list(examples.values()), config.seed, federation.rounds)
        check_attackers(config.injection, data, roster, federation)
        planted = config.injection, data.faults.free_riders
        planned = participation_frame(roster, list(counts), federation, *planted)
        show_participation(console, planned, list(counts), len(roster))
        retraining = config.evaluation.counterfactual == "retrain"
        others = others_of(config, data) if retraining else {}
        plan = plan_of(config.retrain, config.seed, data, others) if retraining else []
        wanted = _wanted(own.rounds, federation.rounds)
        if retraining:
            whom = to_complete(sharing, evaluation.client, examples, roster, wanted)
            for line in before_training(config, data, others, plan, max(wanted), whom):
                console.print(Text(line, style="bold yellow"))
        initial = copy.deepcopy(model) if retraining else model
        loaded = time.perf_counter()

        clear(folder)
        presets = _presets(own, config.tracefl_beside)
        watch, traced = Watch(console, folder, tracking), list[TracedRound]()
        questions = Questions()
        success = dict[int, AttackSuccess | None]()
        with (
            federated_rounds(config, data, model, Path(config.store.cache), wanted, device, watch, folder) as rounds,
            watch.progress,
        ):
            if config.tracker is not None:
                tracking.start(settings_of(config), folder, config.environment)
            for stored in rounds:
                load_round(model.to(device), stored)
                whose = complete(model, stored, sharing, evaluation.client, examples)
                lineage = lineage_round(stored) if own.scope == "lineage" else None
                taking_part = stored.clients if lineage is None else lineage.clients
                holders = {client: counts[client] for client in taking_part}
                success[stored.number] = measured_success(model, data, device)
                chosen = choose_inputs(model, data.test, holders, evaluation, config.seed, device)
                steps = steps_made(examples, stored, config.federation, config.seed) if config.attribution else ()
                case = case_of(
                    chosen, model, stored, data, config.fusion, config.privacy, own, config.seed, device, steps
                )
                if retraining:
                    questions.add(model, chosen, stored, device, sharing, evaluation.client, examples)
                rivals = attributions(config.attribution)
                traced.append(trace_round(case, chosen, data, presets, rivals, lineage, evaluation.repeats))
                link_rounds(folder, stored)
                history, place = stored.history, stored.folder.parent
        write_jsonl(folder / "metrics.jsonl", map(asdict, watch.history or history))
        tracking.rounds(history)

        positions = {client.id: position for position, client in enumerate(data.clients)}
        failed = {metrics.round: [positions[client] for client in metrics.failed] for metrics in history}
        roster = without(roster, failed)
        fused = [[work.position for work in members.fused] for members in roster]
        spent = config.privacy.spent(ledger_of(federation, config.fusion, len(data.clients), fused))
        retrainings = None
        if questions.asked:
            whole = questions.whole(config, data, initial, device, others)
            plan += removals(config.retrain, config.seed, data, [each.contributions for each in traced])
            with in_use(place):  # else it might be pruned to make room
                retrainings = retrain(whole, questions.asked, questions.full(place.parent.name), plan, console)
            write_csv(folder / RETRAININGS, retrainings.made)
            write_parquet(folder / RETRAINED, retrainings.predictions)
        said = [f"{len(counts)} clients, {federation.rounds} rounds, {federation.optimizer}"]
        said += [*([] if spent is None else [told(spent)]), *([whose] if whose else [])]
        said += [] if retrainings is None else retrainings.notes
        truth = (
            None if retrainings is None else rounds_retrained(retrainings.made, retrainings.predictions, list(counts))
        )
        findings = findings_of(
            traced, data, evaluation.min_examples, newcomers(roster, list(counts)), said, truth, success
        )
        figures = {
            **measured(own.name, findings.scores, traced, history[-1].accuracy),
            **({} if retrainings is None else retrainings.figures),
            "threshold": config.threshold,
            "seed": config.seed,
            "clients_kept": len(counts),
            **names,
            "fusion": fusion.lower(),
            **privacy_figures(spent),
            "engine": config.engine.name,
            **costs(traced, watch.ended.seconds, watch.ended.cached_seconds),
        }
        seconds = {
            "load": loaded - began,
            "train": watch.ended.seconds,
            "trace": sum(traced_round.seconds for traced_round in traced),
            **({} if retrainings is None else {"retrain": retrainings.seconds}),
            "total": time.perf_counter() - began,
        }

        write_findings(folder, findings, data.label_names)
        if data.tokenizer is not None:
            write_text(folder / TOKENIZER, data.tokenizer)
        write_csv(folder / "participation.csv", participation_frame(roster, list(counts), federation, *planted))
        write_csv(folder / label_counts.FILE, label_counts.frame(counts))
        write_json(folder / "summary.json", figures)
        weights = weights_from(data.form, bool(config.model.pretrained))
        made_of = {
            "key": place.parent.name,
            "seed": config.seed,
            "inputs": masked(inputs_read(data), config.environment, "dataset"),
            "model": {
                **masked({"name": config.model.name, "weights": weights}, config.environment, "model"),
                **architecture(data.form, model),
                **({} if frozen is None else {"frozen_sha256": frozen}),
            },
            **manifest(data, device, seconds, findings.last.trace),
        }
        write_json(folder / FILE, covering(folder, plain(made_of)))  # the last, since it covers the others

        show_rounds(console, history, findings.warnings)
        show_findings(console, findings, own.name, data, counts, evaluation.inputs, costs=bool(config.attribution))
        show_files(console, folder)
        tracking.results(figures, findings.scores, findings.note, folder)


def _as_written(data: FederatedData, taken: Sequence[EnvironmentValue]) -> FederatedData:
    """`data`, what is said of them without values of the environment."""
    said = {name: getattr(data.source, name) for name in ("name", "location", "note")}
    source = replace(data.source, **masked(said, taken, "dataset"))
    return replace(data, source=source, lines=masked(data.lines, taken, "dataset", "model"))


def _presets(own: Provenance, tracefl_beside: bool) -> list[Provenance]:
    """The run's own way of tracing, and the artifact's beside it."""
    if not tracefl_beside or own.name == "tracefl":
        return [own]
    return [own, provenance_preset("tracefl")]


def _wanted(asked: Any, rounds: int) -> set[int]:
    """Numbers of the rounds to trace, of `rounds`: as `provenance.rounds` has it, last, all, or a list of them."""
    if asked == "last":
        return {rounds}
    return set(range(1, rounds + 1)) if asked == "all" else set(asked)
