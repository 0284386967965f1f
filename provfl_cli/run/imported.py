"""A round made of other people's checkpoints: the global model before and after, and what each client returned."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..coverage import printable
from ..errors import InputError, RunError
from ..fusion.buffered import Buffered
from ..fusion.decomposition import DIFFERENCE, Decomposition
from ..fusion.fuse import FusionResult, fuse
from ..fusion.updates import ReturnedModels
from ..provenance.shared_part import fitted
from ..provenance.state_dicts import RoundInMemory
from ..results.links import refuse_links_of_recording
from ..store.locks import claimed
from ..store.new_round import begin_round, commit_round
from ..store.recorded import RecordedFederation, read_whole, require_no_run, write_recorded
from ..store.rounds import CLIENTS, Metrics, Round, read_round, stored_rounds
from ..store.tensorfile import open_tensors, specs_of, write_slot
from .called import called_model
from .checkpoints.adapters import require_adapter_of
from .checkpoints.renaming import Substitution
from .explained import Explained, explained
from .round_files import File, RoundFiles, open_round, same_tensors

RUNNING = ("running_mean", "running_var", "num_batches_tracked")  # last parts of the names of normalisation's buffers
PATIENCE = 600.0  # seconds in which another import into the same folder should have ended


@dataclass(frozen=True)
class Client:
    """A client's file or folder; `examples` None: not known."""

    name: str
    file: Path
    examples: int | None


@dataclass(frozen=True)
class Import:
    """What to import.

    Attributes:
        after, before: files or folders of the global model after and before the round.
        clients: who returned what.
        folder: of the recorded federation, new or with earlier rounds.
        number: of the round; None: the one after the last.
        fusion: how the server fused, and how it is called: an option of `conf/fusion` with settings as KEY=VALUE.
        called: that option.
        buffers: names of tensors that are no parameters, beside those that are known by their name or type.
        labels: names of the classes; (): not known.
        mismatch: where the global model is not what the fusion gives: `refuse`; `fusion`, to trace what the fusion
            gives in its place; `row`, to give the difference a row of its own.
        updates: whether clients sent differences from the model that they started from, and not weights.
        renaming: of all tensors.
        model: a function that returns the model, MODULE:FUNCTION, to check what is imported against; None: it is not.
        bases: by the name of a client the model that it started from, where that is not `before`.
    """

    after: Path
    before: Path
    clients: tuple[Client, ...]
    folder: Path
    number: int | None
    fusion: Any
    called: tuple[str, ...]
    buffers: tuple[str, ...]
    labels: tuple[str, ...]
    mismatch: str
    updates: bool = False
    renaming: tuple[Substitution, ...] = ()
    model: str | None = None
    bases: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class ImportedRound:
    """The stored round; `worst` is how far the given global model was from the fusion's, relative to what the round
    moved it; `lines` what the user should be told."""

    stored: Round
    worst: float
    lines: tuple[str, ...]


def import_round(asked: Import) -> ImportedRound:
    """Store a round, so that it can be traced. Imports into one folder wait for each other.

    Raises:
        InputError: files that cannot be read or do not fit each other, or a global model that the fusion does not give.
        RunError: the disk is full.
    """
    require_no_run(asked.folder, "--out")
    new = [place for place in (asked.folder, *asked.folder.parents) if not place.exists()]
    try:
        with claimed(asked.folder, wait=PATIENCE):
            return _import(asked)
    except OSError as error:
        raise RunError(f"{asked.folder}: cannot be written ({error.strerror or error})") from error
    finally:
        for made in new:
            with suppress(OSError):  # it holds something, as it should
                made.rmdir()


def _import(asked: Import) -> ImportedRound:
    """As `import_round`, in a folder that nobody else writes into."""
    refuse_links_of_recording(asked.folder)
    recorded = read_whole(asked.folder, every=True)
    numbers = _numbers(asked.clients, recorded)
    rounds = asked.folder / "rounds"
    there = stored_rounds(rounds)
    number = asked.number or max(there, default=0) + 1
    if number in there:
        raise InputError(f"--round {number}: {asked.folder} has it already: another number, or another --out")
    order = sorted(asked.clients, key=lambda client: numbers[client.name])
    files = open_round(
        File(f"--previous {asked.before}", asked.before),
        File(f"--global {asked.after}", asked.after),
        [File(f"--client {printable(client.name)}={client.file}", client.file) for client in order],
        {
            slot: File(f"--base {printable(client.name)}={asked.bases[client.name]}", asked.bases[client.name])
            for slot, client in enumerate(order)
            if client.name in asked.bases
        },
        asked.renaming,
        asked.updates,
    )
    if number - 1 in there:
        last = read_round(rounds, number - 1)
        files = files.continuing(last.weights().keys())
        _follows(last, files.before, asked, number)
    before, after = files.before, files.after
    buffers = _buffers(before, asked.buffers)
    fits = () if asked.model is None else (_fits(asked.model, files),)
    counts = _counts(order)
    temporary = rounds / f".{number:04d}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for slot, tensors in enumerate(files.sent()):
            if not slot:
                begin_round(rounds, number, specs_of(tensors), len(order))
            write_slot(temporary / CLIENTS, tensors, slot)
        sent = open_tensors(temporary / CLIENTS)
        bases = {slot: _wide(base) for slot, base in files.bases.items()}
        returned = ReturnedModels(_wide(before), sent, counts, [1] * len(order), buffers, bases)

        def tried(how: ReturnedModels) -> tuple[FusionResult, Explained]:
            made = fuse(asked.fusion, how, {})
            return made, explained(before, after, made.weights, sent, buffers, files.types, asked.updates)

        fused, fit = tried(returned)
        buffered = None
        if bases and fit.worst and asked.fusion.averages:  # an asynchronous server adds updates, others average models
            buffered = Buffered((0,) * len(order), (1.0,) * len(order))
            added, other = tried(replace(returned, buffered=buffered))
            if other.worst < fit.worst:
                fused, fit = added, other
            else:
                buffered = None
        weights, parts, lines = _reconciled(asked, after, fused.weights, fused.decomposition, buffers, fit)
        empty = Metrics(number, math.nan, math.nan, math.nan, len(order), 0.0)
        stored = commit_round(
            temporary,
            number,
            clients=[numbers[client.name] for client in order],
            examples=counts,
            weights=weights,
            previous=before,
            state={},
            next_state={},
            decomposition=parts,
            buffers=buffers,
            history=[empty],
            bases=files.bases,
            buffered=buffered,
            names=[client.name for client in order],
            source="import",
        )
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # it holds something, as it should
            rounds.rmdir()
    exact = not fit.worst or asked.mismatch == "fusion"
    _record(asked, recorded, numbers, dict(zip((numbers[client.name] for client in order), counts, strict=True)), exact)
    lines = (*files.lines, *fits, *lines)
    if buffered is not None:
        lines = (*lines, "the server has added what each client changed since its own --base (asynchronous)")
    if all(client.examples is None for client in order):
        lines = (*lines, "no examples were given, so every client counts the same: --client NAME=FILE:EXAMPLES")
    return ImportedRound(stored, fit.worst, lines)


def _numbers(clients: Sequence[Client], recorded: RecordedFederation | None) -> dict[str, int]:
    """A number for each client, the same in all rounds: by name as before, new names behind."""
    names = [client.name for client in clients]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--client {name}: is there twice: clients need different names")
    known = {} if recorded is None else {name: number for number, name in recorded.clients.items()}
    following = max(known.values(), default=-1) + 1
    for name in names:
        if name not in known:
            known[name], following = following, following + 1
    return {name: known[name] for name in names}


def _counts(clients: Sequence[Client]) -> list[int]:
    """Examples of each; 1 where nobody gave any."""
    counted = [client for client in clients if client.examples is not None]
    missing = [client.name for client in clients if client.examples is None]
    if counted and missing:
        raise InputError(
            f"--client {missing[0]}: without examples, others have some: --client {missing[0]}=FILE:EXAMPLES for all"
        )
    return [1 if client.examples is None else client.examples for client in clients]


def _wide(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Numbers of less than 32 bits in float32: a fusion hands on its result in the type of what it began with."""
    return {
        name: tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize < 4 else tensor
        for name, tensor in tensors.items()
    }


def _fits(spec: str, files: RoundFiles) -> str:
    """How much of the model the round holds, in words; InputError where it holds what the model does not."""
    model = called_model(spec)
    require_adapter_of(model, spec, files.adapters)
    held = RoundInMemory((), Decomposition(torch.ones(0)), files.after, files.before, {})
    shared = fitted(model, held, f"--model {spec}", "the files").weights().keys()
    parameters = dict(model.named_parameters())
    if not parameters.keys() & shared:
        raise InputError(f"--model {spec}: the files hold no parameter of the model")
    constants = parameters.keys() - shared
    rest = f", {len(constants):,} others are constants of the model" if constants else ""
    return f"fits --model {spec}: {len(parameters) - len(constants):,} of its parameters{rest}"


def _follows(last: Round, before: Mapping[str, Tensor], asked: Import, number: int) -> None:
    """Raise InputError unless the round before ended where this one begins."""
    if not same_tensors(last.weights(), before):
        raise InputError(
            f"--previous {asked.before}: is not the global model after round {number - 1}, which {asked.folder} has: "
            f"another --round (rounds may be left out), or another --out"
        )


def _buffers(tensors: Mapping[str, Tensor], named: Sequence[str]) -> frozenset[str]:
    for name in named:
        if name not in tensors:
            raise InputError(f"--buffers {name}: --previous has no tensor of that name")
    known = {name for name, tensor in tensors.items() if not tensor.is_floating_point() or name.endswith(RUNNING)}
    return frozenset({*known, *named})


def _reconciled(
    asked: Import,
    after: dict[str, Tensor],
    fused: dict[str, Tensor],
    parts: Decomposition,
    buffers: frozenset[str],
    fit: Explained,
) -> tuple[dict[str, Tensor], Decomposition, tuple[str, ...]]:
    """The global model to store, and what it is made of: exactly, whatever the user has decided."""
    name = asked.called[0]
    if not fit.worst:
        lines = ("what was lost by summing in half precision has a row of its own, rounding",) if fit.rounding else ()
        return after, replace(parts, unsent={**parts.unsent, **fit.unsent}), lines
    size = f"{fit.worst:.1%} of what the round changed (most in {printable(fit.where)})"
    if asked.mismatch == "fusion":
        kept = {key: after[key] if key in buffers else fused[key].to(after[key].dtype) for key in fused}
        return kept, parts, (f"traced is what fusion={name} makes of the clients, not --global: {size} apart",)
    if asked.mismatch == "row":
        unsent = {
            key: (after[key].double() - fused[key].double()).to(fused[key].dtype) for key in fused if key not in buffers
        }
        whole = replace(parts, unsent={**parts.unsent, DIFFERENCE: unsent})
        return after, whole, (f"what fusion={name} does not explain has a row of its own, {DIFFERENCE}: {size}",)
    raise InputError(
        f"--global {asked.after}: is not what fusion={name} makes of the clients: they differ by {size}. Are the "
        "examples, --fusion and list of clients right? Or --mismatch fusion (trace what it makes) or row (a row for it)"
    )


def _record(
    asked: Import,
    recorded: RecordedFederation | None,
    numbers: Mapping[str, int],
    examples: Mapping[int, int],
    exact: bool,
) -> None:
    """Write down who the clients are, those of earlier rounds too.

    `exact`: the fusion gives the stored model. Where it does not, in any of the rounds, fusing again without a client
    would not tell what that client has done, and so is not offered.
    """
    base = recorded or RecordedFederation("import", {}, {})
    write_recorded(
        asked.folder,
        RecordedFederation(
            source=base.source,
            clients={**base.clients, **{number: name for name, number in numbers.items()}},
            examples={**base.examples, **examples},
            labels=asked.labels or base.labels,
            fusion=asked.called if exact and (recorded is None or base.fusion == asked.called) else (),
        ),
    )
