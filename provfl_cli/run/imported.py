"""A round made of other people's checkpoints: safetensors of the global model before and after, and of each client."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..bounded import check_safetensors
from ..coverage import printable
from ..errors import InputError, RunError
from ..fusion.decomposition import DIFFERENCE, Decomposition
from ..fusion.fuse import fuse
from ..fusion.state_dicts import require_finite, require_same
from ..fusion.updates import ReturnedModels
from ..results.links import refuse_links_of_recording
from ..store.locks import claimed
from ..store.new_round import begin_round, commit_round
from ..store.recorded import RecordedFederation, read_whole, require_no_run, write_recorded
from ..store.rounds import CLIENTS, Metrics, Round, read_round, stored_rounds
from ..store.tensorfile import NAMES, open_tensors, specs_of, write_slot

RUNNING = ("running_mean", "running_var", "num_batches_tracked")  # last parts of the names of normalisation's buffers
ROUNDING = 1e-5  # of a tensor's largest number: what another order of summing may change
PATIENCE = 600.0  # seconds in which another import into the same folder should have ended


@dataclass(frozen=True)
class Client:
    """A client's file; `examples` None: not known."""

    name: str
    file: Path
    examples: int | None


@dataclass(frozen=True)
class Import:
    """What to import.

    Attributes:
        after, before: files of the global model after and before the round.
        clients: who returned what.
        folder: of the recorded federation, new or with earlier rounds.
        number: of the round; None: the one after the last.
        fusion: how the server fused, and how it is called: an option of `conf/fusion` with settings as KEY=VALUE.
        called: that option.
        buffers: names of tensors that are no parameters, beside those that are known by their name or type.
        labels: names of the classes; (): not known.
        mismatch: where the global model is not what the fusion gives: `refuse`; `fusion`, to trace what the fusion
            gives in its place; `row`, to give the difference a row of its own.
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
    before, after = _read(asked.before, "--previous"), _read(asked.after, "--global")
    previous, following = f"--previous {asked.before}", f"--global {asked.after}"
    require_finite(before, previous)
    require_same(before, after, following, previous)
    require_finite(after, following)
    if number - 1 in there:
        _follows(read_round(rounds, number - 1), before, asked, number)
    buffers = _buffers(before, asked.buffers)
    order = sorted(asked.clients, key=lambda client: numbers[client.name])
    counts = _counts(order)
    temporary = rounds / f".{number:04d}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        begin_round(rounds, number, specs_of(before), len(order))
        for slot, client in enumerate(order):
            tensors = _read(client.file, f"--client {client.name}")
            what = f"--client {printable(client.name)}={client.file}"
            require_same(before, tensors, what, previous)
            require_finite(tensors, what)
            write_slot(temporary / CLIENTS, tensors, slot)
        sent = open_tensors(temporary / CLIENTS)
        returned = ReturnedModels(before, sent, counts, [1] * len(order), buffers)
        fused = fuse(asked.fusion, returned, {})
        worst, name = _difference(before, after, fused.weights, buffers)
        weights, parts, lines = _reconciled(asked, after, fused.weights, fused.decomposition, buffers, worst, name)
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
            names=[client.name for client in order],
            source="import",
        )
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # it holds something, as it should
            rounds.rmdir()
    exact = not worst or asked.mismatch == "fusion"
    _record(asked, recorded, numbers, dict(zip((numbers[client.name] for client in order), counts, strict=True)), exact)
    if all(client.examples is None for client in order):
        lines = (*lines, "no examples were given, so every client counts the same: --client NAME=FILE:EXAMPLES")
    return ImportedRound(stored, worst, lines)


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


def _read(file: Path, option: str) -> dict[str, Tensor]:
    """All tensors of a safetensors file."""
    if not file.is_file():
        raise InputError(f"{option}: {file}: no such file")
    try:
        check_safetensors(file)
        with safe_open(file, framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in sorted(handle.keys())}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{option}: {file} is no safetensors file ({error}): safetensors.torch.save_file(model.state_dict(), FILE)"
        ) from None
    if not tensors:
        raise InputError(f"{option}: {file}: holds no tensor")
    for name, tensor in tensors.items():
        if str(tensor.dtype) not in NAMES:
            raise InputError(
                f"{option}: {file}: {printable(name)} is {tensor.dtype}, which no round holds: give it as another "
                "type, such as torch.float32"
            )
    return tensors


def _follows(last: Round, before: Mapping[str, Tensor], asked: Import, number: int) -> None:
    """Raise InputError unless the round before ended where this one begins."""
    ended = last.weights()
    same = set(ended) == set(before) and all(torch.equal(ended[name], before[name]) for name in before)
    if not same:
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


def _difference(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], fused: Mapping[str, Tensor], buffers: frozenset[str]
) -> tuple[float, str]:
    """The largest difference of a parameter's numbers beyond rounding, relative to the most that the round moved any
    of them; and where it is. 0: none."""
    worst, where = 0.0, ""
    moved = max(
        (
            float((after[name] - before[name]).abs().max())
            for name in before
            if name not in buffers and before[name].numel()
        ),
        default=0.0,
    )
    for name in before:
        if name in buffers or not before[name].numel():
            continue
        size = max(float(after[name].abs().max()), float(before[name].abs().max()))
        apart = float((after[name].double() - fused[name].double()).abs().max())
        if apart > max(ROUNDING, 4 * torch.finfo(before[name].dtype).eps) * size:
            relative = apart / moved if moved else math.inf
            if relative > worst:
                worst, where = relative, name
    return worst, where


def _reconciled(
    asked: Import,
    after: dict[str, Tensor],
    fused: dict[str, Tensor],
    parts: Decomposition,
    buffers: frozenset[str],
    worst: float,
    where: str,
) -> tuple[dict[str, Tensor], Decomposition, tuple[str, ...]]:
    """The global model to store, and what it is made of: exactly, whatever the user has decided."""
    name = asked.called[0]
    if not worst:
        return after, parts, ()
    size = f"{worst:.1%} of what the round changed (most in {where})"
    if asked.mismatch == "fusion":
        kept = {key: after[key] if key in buffers else fused[key] for key in fused}
        return kept, parts, (f"traced is what fusion={name} makes of the clients, not --global: {size} apart",)
    if asked.mismatch == "row":
        unsent = {
            key: (after[key].double() - fused[key].double()).to(after[key].dtype) for key in fused if key not in buffers
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
