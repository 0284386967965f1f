"""Every round that is to be traced, as soon as it is stored: its model is asked, and its predictions are traced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text
from torch import nn

from ..attribution.method import Case, attributions
from ..config.validate import provenance_preset
from ..evaluation.backdoor import AttackSuccess
from ..federation.client import steps_made
from ..models.causal import ResponseModel
from ..provenance.lineage import lineage_round
from ..provenance.merged import load_round
from ..provenance.settings import Provenance
from ..provenance.watched import watched
from ..reporting.progress import TraceProgress
from ..results.diagnosis import Diagnosis
from ..store.rounds import Metrics, Round
from .backdoor import measured_success
from .clearing import link_rounds
from .diagnosis_of_run import diagnosis_of_run
from .highlights import highlighted
from .learnt import near_chance
from .prepared import Prepared
from .private_part import complete
from .retrained import Questions
from .said import choose_responses, response_case
from .tracing import ChosenInputs, TracedRound, case_of, choose_inputs, trace_round


@dataclass(frozen=True)
class TracedRounds:
    """What tracing gives, of at least one round.

    Attributes:
        rounds: the traces, ascending.
        success: of a planted backdoor, by round; None where none is planted.
        questions: what models that are trained again are to be asked.
        whose: whose private tensors completed the last model; "" where there are none.
        history: metrics of all rounds.
        place: the folder of the rounds in the training cache.
        diagnosis: who is behind the mistakes of the last model; None: not asked, or it answers prompts.
    """

    rounds: Sequence[TracedRound]
    success: Mapping[int, AttackSuccess | None]
    questions: Questions
    whose: str
    history: Sequence[Metrics]
    place: Path
    diagnosis: Diagnosis | None = None


def trace_rounds(ready: Prepared, rounds: Iterable[Round], folder: Path, console: Console) -> TracedRounds:
    """Trace stored rounds, in order, by the run's own way, by `tracefl` beside it and by the methods to compare with.

    Args:
        ready: the federation; its model is left with the weights of the last round.
        rounds: as they are stored, at least one.
        folder: of the run, to which the rounds are linked.
        console: where to show how far a trace is, and to warn of a model that has learnt nothing before it is traced.
    """
    config, model, own = ready.config, ready.model, ready.config.provenance
    presets, rivals = _presets(own, config.tracefl_beside), attributions(config.attribution)
    traced, questions, whose = list[TracedRound](), Questions(), ""
    success = dict[int, AttackSuccess | None]()
    for stored in rounds:
        load_round(model.to(ready.device), stored)
        whose = complete(model, stored, ready.sharing, config.evaluation.client, ready.examples)
        lineage = lineage_round(stored) if own.scope == "lineage" else None
        taking_part = stored.clients if lineage is None else lineage.clients
        holders = {client: ready.counts[client] for client in taking_part}
        success[stored.number] = measured_success(model, ready.data, ready.device)
        chosen, case = _asked(ready, model, stored, holders)
        if ready.retrains:
            questions.add(model, chosen, stored, ready.device, ready.sharing, config.evaluation.client, ready.examples)
        if doubt := near_chance(stored.metrics, ready.data):
            console.print(Text(f"warning: {doubt}", style="bold yellow"))
        repeats = config.evaluation.repeats
        traces = (len(presets) + (lineage is not None)) * repeats
        with TraceProgress(console, traces, f"Tracing round {stored.number}") as progress, watched(progress):
            traced.append(trace_round(case, chosen, ready.data, presets, rivals, lineage, repeats))
        link_rounds(folder, stored)
        history, place, last = stored.history, stored.folder.parent, stored
    found = diagnosis_of_run(ready, case) if config.evaluation.diagnose else None
    load_round(model, last)  # a method may have left other weights there
    complete(model, last, ready.sharing, config.evaluation.client, ready.examples)
    traced[-1] = replace(traced[-1], inputs=highlighted(traced[-1], case, ready.data))
    return TracedRounds(traced, success, questions, whose, history, place, found)


def _asked(
    ready: Prepared, model: nn.Module, stored: Round, holders: Mapping[int, np.ndarray]
) -> tuple[ChosenInputs, Case]:
    """The inputs chosen of a round, and the question that methods are asked about them."""
    config, data, device = ready.config, ready.data, ready.device
    steps = steps_made(ready.examples, stored, config.federation, config.seed) if config.attribution else ()
    settings = config.fusion, config.privacy, config.provenance, config.seed, device, steps
    if isinstance(model, ResponseModel):
        chosen = choose_responses(model, data, holders, config.evaluation, config.dataset.topics, config.seed, device)
        return chosen, response_case(case_of(chosen, model, stored, data, *settings))
    chosen = choose_inputs(model, data.test, holders, config.evaluation, config.seed, device)
    return chosen, case_of(chosen, model, stored, data, *settings)


def _presets(own: Provenance, tracefl_beside: bool) -> list[Provenance]:
    """The run's own way of tracing, and the artifact's beside it."""
    if not tracefl_beside or own.name == "tracefl":
        return [own]
    return [own, provenance_preset("tracefl")]
