"""Work that is fused in a later round than the one in which it was started, kept on disk until then.

    rounds/0007/pending.safetensors    work/POSITION/NAME   what a client trained from an older global model
                                       base/ROUND/NAME      that model: the one which round ROUND started from

Each round's file holds all work that is outstanding after it, so that a round can be continued from its folder alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..store.tensorfile import Specs, allocate, open_tensors, stacked, write_tensors
from .participation import Arrival, Roster

PENDING = "pending.safetensors"
FRESH = "late.safetensors"  # while a round trains: a slot for each client whose work will be late


def outstanding(rosters: Sequence[Roster], number: int) -> list[Arrival]:
    """Work started in round `number` or before and fused after it, by position."""
    late = [
        Arrival(participant.position, roster.number)
        for roster in rosters[:number]
        for participant in roster.trained
        if participant.delay and roster.number + participant.delay > number
    ]
    return sorted(late, key=lambda work: work.position)


def begin_late(temporary: Path, specs: Specs, count: int) -> Path:
    """Make room in a round's temporary folder for `count` clients whose work will be late; returns the file."""
    file = temporary / FRESH
    if count:
        allocate(file, stacked(specs, count))
    return file


def arrived(before: Path | None, work: Arrival, names: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Late work and the model that it started from, out of the folder of the round before."""
    assert before is not None  # nothing can be late in round 1
    file = open_tensors(before / PENDING)
    return (
        {name: file[f"work/{work.position}/{name}"] for name in names},
        {name: file[f"base/{work.from_round}/{name}"] for name in names},
    )


def end_late(
    temporary: Path,
    before: Path | None,
    pending: Sequence[Arrival],
    fresh: Sequence[int],
    number: int,
    started_from: Mapping[str, Tensor],
) -> None:
    """Write what is outstanding after round `number`, and remove the file that clients wrote into.

    Args:
        temporary: the round's folder.
        before: the folder of the round before.
        pending: what is outstanding.
        fresh: positions of the clients whose late work started in this round, in the order of their slots.
        number: of this round.
        started_from: the global model that this round's clients started from.
    """
    tensors: dict[str, Tensor] = {}
    for work in pending:
        if work.from_round == number:
            rows = open_tensors(temporary / FRESH)
            own: Mapping[str, Tensor] = {name: rows[name][fresh.index(work.position)] for name in started_from}
            base: Mapping[str, Tensor] = started_from
        else:
            own, base = arrived(before, work, list(started_from))
        tensors |= {f"work/{work.position}/{name}": tensor for name, tensor in own.items()}
        tensors |= {f"base/{work.from_round}/{name}": tensor for name, tensor in base.items()}
    if tensors:
        write_tensors(temporary / PENDING, tensors)
    (temporary / FRESH).unlink(missing_ok=True)
