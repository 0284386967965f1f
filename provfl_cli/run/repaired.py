"""`provfl repair`: the global model of a federation without some of its clients, in several ways, and measured."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console

from .. import __version__
from ..config.faults import Faults
from ..config.trigger import Trigger
from ..errors import InputError, RunError
from ..evaluation.repair import Quality, nearest
from ..results.files import json_line
from ..results.repair import FINETUNE, LINEAGE, REFUSE, RETRAIN, WAYS, Repair, Way
from ..store.disk import replacing
from ..store.rounds import Round
from ..store.tensorfile import write_tensors
from .repair_measures import Examined, Measures, compared, of_recording, of_run
from .repair_ways import Again, Asked, Made, Weights, data_of, make_all
from .repairable import RUN, Repairable

NO_FAULTS = Faults((), ())


def repaired(of: Repairable, asked: Asked, console: Console) -> tuple[Repair, dict[str, Weights]]:
    """Take the clients out in each way that is asked for, and measure what comes of it.

    Args:
        of: the federation.
        asked: who goes, and how.
        console: where to show how far training is.

    Returns:
        What was measured, and the global tensors by way, buffers included.

    Raises:
        InputError: a way that was asked for cannot be gone.
        RunError: a stored file is damaged, training fails.
    """
    last = of.read(of.rounds[-1])
    if last.products:
        raise InputError(f"{of.folder}: products of adapters are summed (fusion=flora): nobody can take them out again")
    if not set(of.known) - set(asked.gone):
        raise InputError("--without: names every client, somebody has to be left")
    if asked.first is not None and not 1 <= asked.first <= last.number:
        raise InputError(f"--from {asked.first}: there are rounds 1 to {last.number}")
    again, notes = data_of(of, asked)
    measures = _measures(of, asked, again)

    def examined(weights: Weights) -> Examined:
        if measures is None:
            return Examined(weights, Quality(), np.empty(0, np.int64))
        return measures.examined(weights)

    made = make_all(of, asked, last, again, lambda weights: examined(weights).quality, console)
    seen = {way: examined(weights) for way, weights in made.weights.items()}
    reference, whole = seen.get(RETRAIN), last.weights()
    qualities = {way: compared(own, reference, whole, last.buffers) for way, own in seen.items()}
    before = compared(examined(whole), reference, whole, last.buffers)
    cheap = {way: quality for way, quality in qualities.items() if way != RETRAIN}
    best, rule = nearest(cheap, qualities.get(RETRAIN))
    faults = NO_FAULTS if again is None else again[1].faults
    staying = ", ".join(str(client) for client in faults.clients if client not in asked.gone)
    if staying:
        notes.append(f"the fault was planted in client {staying} as well, who stays")
    ways = [
        Way(way, _does(way, asked, last, made), qualities.get(way), made.seconds.get(way, 0.0), reason)
        for way, reason in ((way, made.missing.get(way, "")) for way in WAYS)
        if way in made.weights or reason
    ]
    repair = Repair(
        clients={of.names.get(client, str(client)): client for client in asked.gone},
        rounds=(asked.first or 1, last.number),
        before=before,
        ways=tuple(ways),
        best=best,
        rule=rule,
        fault=_fault(faults),
        notes=(*notes, *made.notes),
        trainable=again is not None,
    )
    return repair, made.weights


def _measures(of: Repairable, asked: Asked, again: Again | None) -> Measures | None:
    if of.opened is None:
        return None
    if again is not None:
        return of_run(of.opened, again[1], asked.gone)
    return None if of.source == RUN else of_recording(of.opened)


def _fault(faults: Faults) -> str:
    """What the success of a fault is the share of; "": nothing shows it."""
    if isinstance(faults.trigger, Trigger):
        return f"test inputs with the trigger predicted as label {faults.trigger.label}"
    if faults.trigger is not None:
        return "prompts answered with what was taught"
    if any(source != target for source, target in faults.flips):
        return "test inputs of labels that were flipped, predicted as what they were flipped to"
    return ""


def _does(way: str, asked: Asked, last: Round, made: Made) -> str:
    """What a way computes, and what it leaves in the model."""
    first = asked.first
    if way == REFUSE:
        begin = first or last.number
        which = f"round {begin} is" if begin == last.number else f"rounds {begin} to {last.number} are"
        stays = f"; it cannot undo earlier rounds: what they sent before round {begin} stays" if begin > 1 else ""
        return f"{which} fused again without them, of the others' stored updates, shares renormalised{stays}"
    if way == LINEAGE:
        since = f" since round {first}" if first and first > 1 else ""
        return f"all that they sent{since} is subtracted; the others' shares stay and are not renormalised"
    if way == FINETUNE:
        count = f"{asked.more} round{'s' * (asked.more > 1)}"
        return f"{made.base}, then {count} by the others alone, from a server without momentum"
    return f"trained again by the others alone, {last.number} rounds from the initial model: the reference"


def write(path: Path, weights: Weights, of: Repairable, repair: Repair, way: str) -> None:
    """Write global tensors under the names that they have in the rounds, whole or not at all, with what was done.

    The metadata `provfl` is a JSON object; of `quality` numbers that were not measured are null.

    Raises:
        RunError: nothing can be written there.
    """
    own = repair.way(way)
    about = {
        "provfl": __version__,
        "source": of.source,
        "without": list(repair.clients),
        "from_round": repair.rounds[0],
        "rounds": repair.rounds[1],
        "how": way,
        "does": own.does,
        "compared_with_retraining": repair.retrained is not None,
        "quality": None if own.quality is None else asdict(own.quality),
    }
    try:
        with replacing(path) as beside:
            write_tensors(beside, weights, {"format": "pt", "provfl": json_line(about)})
    except KeyError as error:
        raise RunError(f"cannot write {path}: a tensor is of type {error}, which safetensors has not") from error
