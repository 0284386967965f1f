"""A federation beside which somebody sits: each round is measured as soon as it is there, and the next is waited for.

Only read: no lock is taken, nothing is written into the folder, and a round that is deleted meanwhile is passed over.
A round is renamed into its place when it is whole (`store/new_round.py`), so that half of one is never seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from ..attribution.probes import of_updates, probed
from ..attribution.suspects import Score
from ..config.stored_config import HYDRA
from ..data.load import test_set
from ..errors import InputError, RunError
from ..evaluation.band import BandRound, next_round
from ..provenance.outputs import by_argument, count_of
from ..results.checksums import FILE
from ..results.links import refuse_links_of_recording, refuse_links_of_rounds
from ..seeds import derived_seed
from ..store.matching_tensors import check_tensors
from ..store.recorded import missed_rounds
from ..store.rounds import Round, read_round, round_folder, stored_rounds
from .inputs import RunInputs, TracedInputs
from .matching_rounds import check_belongs
from .open_recording import open_recorded
from .open_run import OpenFederation, open_run
from .open_unfinished import config_of, open_unfinished
from .rebuild import data_again

GONE = "deleted before it was read"
AGAIN, PAUSE = 3, 0.2  # looks at files that change while they are looked at, and seconds between them


@dataclass(frozen=True)
class Watching:
    """What is watched, and how.

    Attributes:
        folder: of a run, at work or ended, or of a recorded federation.
        model, data, target, tokenizer: of a recorded federation, see `open_recorded`; of a run `data`: where they are.
        inputs: a file or folder of probes, of a run; None: its test set.
        probes: how many of them at most.
        updates: whether only what clients send is measured, without model and inputs.
        trust, checkpoint: of a run, see `open_run`.
        strictness: see `next_round`.
        once: whether to end with the rounds that are there.
        poll: seconds between two looks.
        timeout: seconds without a new round after which nobody waits any more; None: for ever.
    """

    folder: Path
    model: str | None = None
    data: str | None = None
    target: str | None = None
    tokenizer: str | None = None
    inputs: Path | None = None
    probes: int = 500
    updates: bool = False
    trust: bool = False
    checkpoint: str | None = None
    strictness: float = 1.0
    once: bool = False
    poll: float = 0.5
    timeout: float | None = None


@dataclass(frozen=True)
class Seen:
    """A round has been measured: `left` and `back` are the clients that are out since this round, and in again."""

    band: BandRound
    names: Mapping[int, str]
    left: tuple[int, ...]
    back: tuple[int, ...]


@dataclass(frozen=True)
class Passed:
    """A round, or all up to `upto`, is not measured, for a `reason`; `gone`: it is not there any more, or never was."""

    number: int
    reason: str
    gone: bool
    upto: int


@dataclass(frozen=True)
class Waiting:
    """There is no new round yet; `rounds` have been measured so far."""

    rounds: int


@dataclass(frozen=True)
class Over:
    """Nothing more comes, for a `reason`."""

    reason: str


Event = Seen | Passed | Waiting | Over
Measure = Callable[[Round], dict[Score, np.ndarray]]


def watched(watching: Watching, sleep: Callable[[float], None] = time.sleep) -> Generator[Event]:
    """What happens in the folder, as it happens; the last event is `Over`.

    Raises:
        InputError: the folder, model or probes cannot be used.
        RunError: no round came before the timeout, or none of those that came could be measured.
    """
    folder, before = watching.folder, list[BandRound]()
    is_run = (folder / HYDRA / "config.yaml").is_file()
    most = config_of(folder, watching.trust).federation.rounds if is_run else None
    measure = cache(partial(_measure, watching, is_run))  # made when there is a round, which says what the model is
    last, passed, quiet = 0, Passed(0, "", True, 0), time.monotonic()
    while True:
        over = "what was there has been seen" if watching.once else _over(folder, last, most)  # asked before looking
        for number in stored_rounds(folder / "rounds"):
            if number <= last or number > (most or number):
                continue
            for passed in _passed_over(folder, last + 1, number, is_run):
                yield passed
            last, looked = number, _looked_at(folder, number, is_run, measure)
            if isinstance(looked, Passed):
                passed = looked
                yield looked
            else:
                yield _seen(before, *looked, watching.strictness)
            quiet = time.monotonic()
        if over is None and watching.timeout is not None and time.monotonic() - quiet > watching.timeout:
            over = f"no new round within {watching.timeout:g} s"
            if not last:
                raise RunError(f"{folder}: {over}")
        if over is not None:
            break
        yield Waiting(len(before))
        sleep(watching.poll)
    if not before and not passed.gone:
        raise RunError(f"{folder}: round {passed.number}: {passed.reason}")
    yield Over(over)


def _looked_at(
    folder: Path, number: int, is_run: bool, measure: Callable[[], Measure]
) -> tuple[Round, dict[Score, np.ndarray]] | Passed:
    """A round and what is measured of its clients, or why it cannot be."""
    for left in reversed(range(AGAIN)):
        try:
            stored = _read(folder, number, is_run)
            return stored, measure()(stored)
        except (RunError, OSError) as error:
            if not round_folder(folder / "rounds", number).exists():
                break
            if not left:
                return Passed(number, str(error), False, number)
            time.sleep(PAUSE)  # a file beside it may have been written or deleted just now
    return Passed(number, GONE, True, number)


def _seen(before: list[BandRound], stored: Round, values: Mapping[Score, np.ndarray], strictness: float) -> Seen:
    """The round beside those before it, to which it is added."""
    band = next_round(before, stored.number, stored.clients, values, strictness)
    was = set[int]()
    for client in band.clients:
        latest = next((past for past in reversed(before) if client in past.clients), None)
        if latest is not None and client in latest.out:
            was.add(client)
    before.append(band)
    names = dict(zip(stored.clients, stored.names, strict=False))
    return Seen(band, names, tuple(sorted(set(band.out) - was)), tuple(sorted(was - set(band.out))))


def measured_rounds(watching: Watching) -> Iterator[tuple[Round, dict[Score, np.ndarray]]]:
    """The rounds that are there, and what is measured of their clients; arguments and errors as of `watched`."""
    is_run = (watching.folder / HYDRA / "config.yaml").is_file()
    measure = _measure(watching, is_run)
    for number in stored_rounds(watching.folder / "rounds"):
        stored = _read(watching.folder, number, is_run)
        yield stored, measure(stored)


def _over(folder: Path, last: int, most: int | None) -> str | None:
    """Why nothing more comes; None: something may."""
    if most is None:
        return None
    if last >= most:
        return f"all {most} rounds have been seen"
    return "the run has ended" if (folder / FILE).is_file() else None


def _passed_over(folder: Path, first: int, end: int, is_run: bool) -> list[Passed]:
    """The rounds from `first` to before `end`, which are not there, and why: those with the same reason together."""
    missed = {} if is_run or first == end else missed_rounds(folder)
    found = list[Passed]()
    for number in range(first, end):
        reason = f"not recorded: {missed[number]}" if number in missed else GONE
        if found and found[-1].reason == reason:
            found[-1] = replace(found[-1], upto=number)
        else:
            found.append(Passed(number, reason, True, number))
    return found


def _read(folder: Path, number: int, is_run: bool) -> Round:
    if is_run:
        refuse_links_of_rounds(folder)
    else:
        refuse_links_of_recording(folder)
    stored = read_round(folder / "rounds", number)
    check_tensors(stored)
    return stored


def _measure(watching: Watching, is_run: bool) -> Measure:
    """What measures a round; model and probes are made once."""
    if watching.updates:
        return of_updates
    opened = _opened(watching, is_run)
    chosen = _probes(watching, opened)

    def measure(stored: Round) -> dict[Score, np.ndarray]:
        if is_run:
            check_belongs(watching.folder, stored, opened.key)
        opened.load(stored)
        case = opened.case(stored, chosen, np.zeros(len(chosen.numbers), dtype=np.int64))
        return probed(replace(case, label_counts={}, unlabelled=None))

    return measure


def _opened(watching: Watching, is_run: bool) -> OpenFederation:
    folder = watching.folder
    if is_run and (folder / FILE).is_file():
        return open_run(folder, watching.trust, watching.data, watching.checkpoint)
    if is_run:
        return open_unfinished(folder, watching.trust, watching.data)
    return open_recorded(folder, watching.model, watching.data, watching.target, watching.tokenizer)


def _probes(watching: Watching, opened: OpenFederation) -> TracedInputs:
    """At most so many inputs, drawn by the federation's seed where there are more."""
    if opened.prompts is not None:
        raise InputError(f"{watching.folder}: its model answers prompts: --updates watches what clients send alone")
    if watching.inputs is not None:
        found = opened.inputs.many(watching.inputs)
    elif isinstance(opened.inputs, RunInputs):
        found = _tested(opened, opened.inputs)
    else:
        found = opened.inputs.many(Path("all"))
    count = count_of(found.inputs)
    drawn = np.random.default_rng(derived_seed(opened.seed, "probes")).permutation(count)[: watching.probes]
    where = np.sort(drawn)
    return replace(
        found,
        inputs=_rows(found, where),
        numbers=found.numbers[where],
        labels=found.labels[where],
        shown=tuple(found.shown[at] for at in where.tolist()),
        names=tuple(found.names[at] for at in where.tolist()),
        wanted=None if found.wanted is None else found.wanted[where],
    )


def _rows(found: TracedInputs, where: np.ndarray) -> torch.Tensor | dict[str, torch.Tensor]:
    at = torch.from_numpy(where)
    parts = {name: tensor[at.to(tensor.device)] for name, tensor in by_argument(found.inputs).items()}
    return parts.get("", parts)


def _tested(opened: OpenFederation, inputs: RunInputs) -> TracedInputs:
    """The plain test set of a run: no server knows a backdoor's trigger."""
    config = opened.config
    assert config is not None
    dataset = data_again(config.dataset, inputs.fingerprint, inputs.data, "its probes are its test set")
    plain = replace(config, dataset=dataset, evaluation=replace(config.evaluation, inputs="all"))
    test, source = test_set(plain)
    if source.fingerprint != inputs.fingerprint:
        raise InputError(
            f"{opened.folder}: its test set is not what it was ({source.location}): --data DIR, where they are now, "
            "or --inputs FILE"
        )
    labels = test.labels.numpy().astype(np.int64)
    names = tuple(f"input {index}" for index in test.indices.tolist())
    return TracedInputs(test.inputs, test.indices, labels, (None,) * len(names), names)
