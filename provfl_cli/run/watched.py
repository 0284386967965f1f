"""A federation beside which somebody sits: each round is measured as soon as it is there, and the next is waited for.

Only read: no lock is taken, nothing is written into the folder, and a round that is deleted meanwhile is passed over.
A round is renamed into its place when it is whole (`store/new_round.py`), so that half of one is never seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
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
from ..results.links import refuse_links_of_rounds
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
AGAIN = 3  # looks at files that change while they are looked at


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
    """A round is not measured, for a `reason`; `gone`: it was not there any more, or never."""

    number: int
    reason: str
    gone: bool


@dataclass(frozen=True)
class Waiting:
    """There is no new round yet; `rounds` have been measured so far."""

    rounds: int


@dataclass(frozen=True)
class Over:
    """Nothing more comes, for a `reason`."""

    reason: str


Event = Seen | Passed | Waiting | Over


def watched(watching: Watching, sleep: Callable[[float], None] = time.sleep) -> Generator[Event]:
    """What happens in the folder, as it happens; the last event is `Over`.

    Raises:
        InputError: the folder, model or probes cannot be used.
        RunError: no round came before the timeout, or none of those that came could be measured.
    """
    folder, measure, before = watching.folder, None, list[BandRound]()
    last, passed = 0, Passed(0, "", True)
    quiet = time.monotonic()
    is_run = (folder / HYDRA / "config.yaml").is_file()
    most = config_of(folder, watching.trust).federation.rounds if is_run else None
    while True:
        over = "what was there has been seen" if watching.once else _over(folder, last, most)  # asked before looking
        there = [number for number in _stored(folder, is_run) if number > last and (most is None or number <= most)]
        for number in there:
            for missing in range(last + 1, number):
                yield (passed := Passed(missing, _missing(folder, missing, is_run), True))
            last, quiet = number, time.monotonic()
            try:
                stored = _read(folder, number)
                if measure is None:
                    measure = _measure(watching, is_run)
                values = measure(stored)
            except (RunError, OSError) as error:
                gone = not round_folder(folder / "rounds", number).exists()
                yield (passed := Passed(number, GONE if gone else str(error), gone))
                continue
            seen = next_round(before, number, stored.clients, values, watching.strictness)
            was = {client for client in (before[-1].out if before else ()) if client in seen.clients}
            was |= _still_out(before, seen)
            yield Seen(
                seen,
                dict(zip(stored.clients, stored.names, strict=False)),
                tuple(client for client in seen.out if client not in was),
                tuple(sorted(was - set(seen.out))),
            )
            before.append(seen)
        if over is not None:
            break
        if watching.timeout is not None and time.monotonic() - quiet > watching.timeout:
            over = f"no new round within {watching.timeout:g} s"
            if not before:
                raise RunError(f"{folder}: {over}")
            break
        yield Waiting(len(before))
        sleep(watching.poll)
    if not before and not passed.gone:
        raise RunError(f"{folder}: round {passed.number}: {passed.reason}")
    yield Over(over)


def _still_out(before: list[BandRound], seen: BandRound) -> set[int]:
    """Clients of this round that were out when they last took part, some rounds ago."""
    found = set[int]()
    for client in seen.clients:
        latest = next((past for past in reversed(before) if client in past.clients), None)
        if latest is not None and client in latest.out:
            found.add(client)
    return found


def measured_rounds(watching: Watching) -> Iterator[tuple[Round, dict[Score, np.ndarray]]]:
    """The rounds that are there, and what is measured of their clients; arguments and errors as of `watched`."""
    is_run = (watching.folder / HYDRA / "config.yaml").is_file()
    measure = _measure(watching, is_run)
    for number in _stored(watching.folder, is_run):
        stored = _read(watching.folder, number)
        yield stored, measure(stored)


def _over(folder: Path, last: int, most: int | None) -> str | None:
    """Why nothing more comes; None: something may."""
    if most is None:
        return None
    if last >= most:
        return f"all {most} rounds have been seen"
    return "the run has ended" if (folder / FILE).is_file() else None


def _stored(folder: Path, is_run: bool) -> list[int]:
    if is_run and (folder / "rounds").exists():
        refuse_links_of_rounds(folder)
    return stored_rounds(folder / "rounds")


def _missing(folder: Path, number: int, is_run: bool) -> str:
    """Why a round is not there."""
    if not is_run and (reason := missed_rounds(folder).get(number)):
        return f"not recorded: {reason}"
    return GONE


def _read(folder: Path, number: int) -> Round:
    stored = read_round(folder / "rounds", number)
    check_tensors(stored)
    return stored


def _measure(watching: Watching, is_run: bool) -> Callable[[Round], dict[Score, np.ndarray]]:
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
    for attempt in range(AGAIN):
        try:
            if is_run and (folder / FILE).is_file():
                return open_run(folder, watching.trust, watching.data, watching.checkpoint)
            if is_run:
                return open_unfinished(folder, watching.trust, watching.data)
            return open_recorded(folder, watching.model, watching.data, watching.target, watching.tokenizer)
        except (RunError, OSError):  # a file was written or deleted while it was looked at
            if attempt == AGAIN - 1:
                raise
            time.sleep(0.2)
    raise AssertionError("unreachable")


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
