"""`provfl repair`: the global model of a federation without some of its clients, in several ways, and measured."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from .. import __version__
from ..attribution.removed import Server, refused, taken_out
from ..config.schema import Config
from ..config.trigger import Trigger
from ..data.federated import FederatedData
from ..errors import InputError, RunError
from ..evaluation.repair import Quality, nearest
from ..federation.client import steps_made
from ..federation.events import ClientFinished, Event, RoundFinished, RoundStarted
from ..federation.key import training_key
from ..federation.warm_start import initial_model
from ..fusion.privacy import NoPrivacy
from ..provenance.shared_part import load_part
from ..reporting.progress import RoundProgress
from ..results.files import json_line
from ..results.repair import FINETUNE, LINEAGE, REFUSE, RETRAIN, WAYS, Repair, Way
from ..retraining.others import continued, from_the_beginning, is_trained, trained
from ..store.disk import replacing
from ..store.matching_tensors import check_tensors
from ..store.recorded import check_names
from ..store.rounds import Round, read_round, stored_rounds
from ..store.tensorfile import write_tensors
from .open_recording import recorded_fusion
from .open_run import OpenFederation
from .place import client_number, require_recorded
from .repair_measures import Examined, Measures, compared, of_recording, of_run
from .trained_again import federation_again

Weights = Mapping[str, Tensor]
INSTEAD = "--how refuse,lineage"


@dataclass(frozen=True)
class Repairable:
    """What a repair needs of a federation, whoever trained it.

    Attributes:
        folder: of the run or the recording.
        source: `run`, or what recorded it.
        names: of the clients by number, where they have any.
        known: numbers of all clients.
        rounds: numbers of the rounds that are there, ascending.
        read: opens one.
        server: how rounds are fused again; None: not known.
        opened: the run, or the recording with a model and inputs; None: there are none.
        faulty: planted clients of a run.
    """

    folder: Path
    source: str
    names: Mapping[int, str]
    known: Collection[int]
    rounds: tuple[int, ...]
    read: Callable[[int], Round]
    server: Server | None
    opened: OpenFederation | None = None
    faulty: tuple[int, ...] = ()

    def clients(self, words: Sequence[str]) -> tuple[int, ...]:
        """Numbers of the clients that are called so; `faulty` names those that a run has planted."""
        if list(words) == ["faulty"] and "faulty" not in self.names.values():
            if not self.faulty:
                raise InputError("--without faulty: no client is known to be: name them, such as --without 0,4")
            return self.faulty
        return tuple(sorted({client_number(word, self.names, self.known) for word in words}))


@dataclass(frozen=True)
class Asked:
    """What is asked for: the clients who go, `ways` (empty: those that are cheap), the first round, rounds to go on."""

    gone: tuple[int, ...]
    ways: tuple[str, ...] = ()
    first: int | None = None
    more: int = 3


@dataclass
class _Made:
    """Models as they are made, by way, with how long each took and why one is missing."""

    weights: dict[str, Weights] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def of_opened(opened: OpenFederation, source: str) -> Repairable:
    """A run, or a recording opened with its model."""
    sharing = opened.sharing
    if sharing is not None and sharing.private:
        raise InputError(
            f"{opened.folder}: {sharing.private[0]} and more of its model are private to each client, so that there is "
            "no global model to repair"
        )
    settings = opened.settings

    def steps(stored: Round) -> Sequence[int]:
        return () if settings is None else steps_made(opened.examples, stored, settings.federation, settings.seed)

    server = None if opened.fusion is None else Server(opened.fusion, opened.privacy, opened.seed, steps)
    if not opened.rounds:
        opened.round(None)  # says why
    return Repairable(
        opened.folder,
        source,
        opened.client_names,
        opened.examples,
        opened.rounds,
        opened.round,
        server,
        opened,
        opened.faulty,
    )


def of_rounds(folder: Path) -> Repairable:
    """A recording of which nothing is given but its rounds."""
    recorded = require_recorded(folder)
    fusion = recorded_fusion(folder, recorded)

    def read(number: int) -> Round:
        stored = read_round(folder / "rounds", number)
        check_names(recorded.clients, stored.clients, stored.names, stored.folder)
        check_tensors(stored)
        return stored

    return Repairable(
        folder,
        recorded.source,
        recorded.clients,
        recorded.examples,
        tuple(stored_rounds(folder / "rounds")),
        read,
        None if fusion is None else Server(fusion, NoPrivacy(), 0, lambda _: ()),
    )


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
    ways = asked.ways or WAYS
    again, notes = _data(of, asked)
    made = _Made()
    _without_training(of, asked, last, made)
    if FINETUNE in ways:
        _attempt(asked, FINETUNE, made, lambda: _continued(of, asked, made, again, console))
    notes += _reference(of, asked, made, again, console) if RETRAIN in ways else []
    for way in WAYS:  # what the others were made from is not shown unless it was asked for
        if way not in ways:
            for made_of in (made.weights, made.seconds, made.missing):
                made_of.pop(way, None)
    measures = _measures(of, asked, again)
    return _measured(of, asked, last, made, measures, again, notes), dict(made.weights)


def _data(of: Repairable, asked: Asked) -> tuple[tuple[Config, FederatedData] | None, list[str]]:
    """The run's configuration and data, where they are at hand, and what to say where they are not."""
    if of.opened is None or of.source != "run":
        for way in (FINETUNE, RETRAIN):
            if way in asked.ways:
                raise InputError(
                    f"--how {way}: trains, and the clients' data of a recorded federation are not here: {INSTEAD}"
                )
        return None, []
    needed = next((way for way in (RETRAIN, FINETUNE) if way in asked.ways), None)
    try:
        return federation_again(of.opened, f"--how {needed or REFUSE}", INSTEAD, needed == RETRAIN), []
    except InputError as error:
        if needed:
            raise
        return None, [f"nothing could be measured: {str(error).removeprefix(f'--how {REFUSE}: ')}"]


def _attempt(asked: Asked, way: str, made: _Made, make: Callable[[], Weights]) -> None:
    """Make a model; where it was not asked for by name, a reason why it cannot be had does."""
    began = time.perf_counter()
    try:
        made.weights[way] = make()
    except InputError as error:
        if way in asked.ways:
            raise
        made.missing[way] = str(error).removeprefix(f"--how {way}: ")
    else:
        made.seconds.setdefault(way, time.perf_counter() - began)


def _without_training(of: Repairable, asked: Asked, last: Round, made: _Made) -> None:
    """The ways that need nothing but stored rounds."""
    ways = asked.ways or WAYS

    def refuse() -> Weights:
        if of.server is None:
            raise InputError(
                "--how refuse: how the rounds were fused is not known well enough to do it again: --how lineage"
            )
        return refused(_rounds(of, asked.first or last.number, "refuse"), asked.gone, of.server)

    def lineage() -> Weights:
        rows = last.lineage_rows
        if asked.first is None and rows is not None and rows.decay == 1:
            return taken_out(last, asked.gone)
        return taken_out(last, asked.gone, _rounds(of, asked.first or 1, "lineage"))

    if REFUSE in ways or FINETUNE in ways:
        _attempt(asked, REFUSE, made, refuse)
    if LINEAGE in ways or FINETUNE in ways:
        _attempt(asked, LINEAGE, made, lineage)


def _rounds(of: Repairable, first: int, way: str) -> list[Round]:
    """The rounds from `first` to the last; InputError where one was not kept."""
    wanted = range(first, of.rounds[-1] + 1)
    missing = [number for number in wanted if number not in of.rounds]
    if missing:
        kept = ", ".join(map(str, of.rounds))
        hint = "store.keep=all keeps all" if of.source == "run" else "a recording keeps all where keep is not set"
        also = " or provenance.scope=lineage the sums over all" if of.source == "run" and way == "lineage" else ""
        raise InputError(f"--how {way}: round {missing[0]} is needed and was not kept (there are {kept}): {hint}{also}")
    return [of.read(number) for number in wanted]


def _continued(
    of: Repairable,
    asked: Asked,
    made: _Made,
    again: tuple[Config, FederatedData] | None,
    console: Console,
) -> Weights:
    if again is None or of.opened is None:
        raise InputError(f"--how {FINETUNE}: the clients' data are not at hand")
    base = next((way for way in (LINEAGE, REFUSE) if way in made.weights), None)
    if base is None:
        raise InputError(f"--how {FINETUNE}: there is nothing to begin with: {made.missing[LINEAGE]}")
    model = copy.deepcopy(of.opened.model).cpu()
    load_part(model, made.weights[base])
    left = [client for client in of.known if client not in asked.gone]
    smaller = continued(*again, left, asked.more)
    with RoundProgress(console) as progress:
        result = trained(*smaller, model, of.opened.device, partial(_shown, progress))
    made.seconds[FINETUNE] = made.seconds[base] + result.seconds
    return result.weights


def _reference(
    of: Repairable,
    asked: Asked,
    made: _Made,
    again: tuple[Config, FederatedData] | None,
    console: Console,
) -> list[str]:
    """The retrained model: trained where it was asked for, else taken where it lies in the cache; what to say of it."""
    if again is None or of.opened is None or (of.opened.published and RETRAIN not in asked.ways):
        return []
    config, data = again
    left = [client for client in of.known if client not in asked.gone]
    initial = initial_model(config, data)
    try:
        smaller = from_the_beginning(config, data, left)
    except InputError:
        if RETRAIN in asked.ways:
            raise
        return []
    if RETRAIN not in asked.ways and not is_trained(*smaller, initial, of.opened.device):
        return []
    with RoundProgress(console) as progress:
        result = trained(*smaller, initial, of.opened.device, partial(_shown, progress))
    made.weights[RETRAIN], made.seconds[RETRAIN] = result.weights, result.seconds
    if training_key(config, data, initial, of.opened.device)[0] != of.opened.key:
        return [
            "retrained by another version of ProvFL or torch, or on another device, than the run: what differs without "
            "the clients holds a little of that"
        ]
    return []


def _shown(progress: RoundProgress, event: Event) -> None:
    match event:
        case RoundStarted():
            progress.round_started(event.number, event.rounds, len(event.clients))
        case ClientFinished():
            progress.client_finished()
        case RoundFinished():
            progress.round_finished(event.number, {"accuracy": event.metrics.accuracy, "loss": event.metrics.loss})


def _measures(of: Repairable, asked: Asked, again: tuple[Config, FederatedData] | None) -> Measures | None:
    if of.opened is None:
        return None
    if again is not None:
        return of_run(of.opened, again[1], asked.gone)
    return None if of.source == "run" else of_recording(of.opened)


def _measured(
    of: Repairable,
    asked: Asked,
    last: Round,
    made: _Made,
    measures: Measures | None,
    again: tuple[Config, FederatedData] | None,
    notes: list[str],
) -> Repair:
    whole = last.weights()
    examine = (lambda weights: Examined(weights, Quality(), _NOTHING)) if measures is None else measures.examined
    seen = {way: examine(weights) for way, weights in made.weights.items()}
    reference = seen.get(RETRAIN)
    qualities = {way: compared(one, reference, whole, last.buffers) for way, one in seen.items()}
    best, rule = nearest({way: quality for way, quality in qualities.items() if way != RETRAIN}, qualities.get(RETRAIN))
    ways = tuple(
        Way(
            way,
            _does(way, of, asked, last, made),
            qualities.get(way),
            made.seconds.get(way, 0.0),
            made.missing.get(way, ""),
        )
        for way in WAYS
        if way in made.weights or way in made.missing
    )
    faults = None if again is None else again[1].faults
    staying = () if faults is None else tuple(client for client in faults.clients if client not in asked.gone)
    if staying:
        notes = [*notes, f"the fault was planted in client {', '.join(map(str, staying))} as well, who stays"]
    fault = ""
    if faults is not None and faults.trigger is not None:
        fault = (
            f"test inputs with the trigger predicted as label {faults.trigger.label}"
            if isinstance(faults.trigger, Trigger)
            else "prompts answered with what was taught"
        )
    elif faults is not None and any(source != target for source, target in faults.flips):
        fault = "test inputs of the flipped labels predicted as these were flipped"
    return Repair(
        clients={of.names.get(client, str(client)): client for client in asked.gone},
        rounds=(asked.first or 1, last.number),
        before=compared(examine(whole), reference, whole, last.buffers),
        ways=ways,
        best=best,
        rule=rule,
        fault=fault,
        notes=tuple(notes),
    )


_NOTHING = torch.empty(0, dtype=torch.int64).numpy()


def _does(way: str, of: Repairable, asked: Asked, last: Round, made: _Made) -> str:
    """What a way computes, and what it leaves in the model."""
    first = asked.first
    if way == REFUSE:
        begin = first or last.number
        which = f"round {begin} is" if begin == last.number else f"rounds {begin} to {last.number} are"
        stays = f"; what the clients sent before round {begin} stays in the model" if begin > 1 else ""
        return f"{which} fused again without them, of the others' stored updates, shares renormalised{stays}"
    since = f" since round {first}" if first and first > 1 else ""
    theirs = f"all that they sent{since} is subtracted; the others' shares are not renormalised"
    if way == LINEAGE:
        return theirs
    if way == FINETUNE:
        base = LINEAGE if LINEAGE in made.weights or LINEAGE not in made.missing else REFUSE
        count = f"{asked.more} round{'s' * (asked.more > 1)}"
        return f"{base}, then {count} by the others alone"
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
