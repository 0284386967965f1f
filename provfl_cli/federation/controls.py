"""Control variates on disk, of fusions whose clients keep a state: each client's in a file of the round's folder.

    rounds/0001/controls.safetensors             c_k of every client kept after the round, stacked [clients, *shape]
                next_server_state.safetensors    c after the round, as control/NAME
                corrections.safetensors          C_k of the clients of the round: how far their correction moved them

A client reads its own row of the file of the round before, and writes its new one into that of its round.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..fusion.client_state import ClientState, next_control
from ..store.rounds import CORRECTIONS, NEXT_STATE
from ..store.tensorfile import allocate, open_tensors, specs_of, stacked, write_slot

CONTROLS = "controls.safetensors"
PREFIX = "control/"

Controls = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
"""`c` and one client's `c_k`, by the names of the trained weights."""


def begin_controls(temporary: Path, before: Path | None, weights: Mapping[str, Tensor], clients: int) -> str:
    """Make a round's file in its `temporary` folder; returns the file that its clients read (`TrainTask.controls`).

    Args:
        temporary: the folder of the round that begins.
        before: the folder of the round before; None before the first: all control variates are 0.
        weights: those that have control variates.
        clients: how many are kept.
    """
    file = temporary / CONTROLS
    if before is None:
        allocate(file, stacked(specs_of(weights), clients))
        return str(file)
    shutil.copyfile(before / CONTROLS, file)
    return str(before / CONTROLS)


def end_controls(
    temporary: Path,
    before: Path | None,
    state: Mapping[str, Tensor],
    positions: Sequence[int],
    shares: Sequence[float],
) -> dict[str, Tensor]:
    """`c` after the round as entries of the server's next state.

    Args:
        temporary: the folder of the round, its clients' new control variates written.
        before: the folder of the round before; None before the first.
        state: the server's state before the round.
        positions: of the clients whose work the round fused.
        shares: what each of all clients counts in `c`.
    """
    control = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    after = open_tensors(temporary / CONTROLS)
    old = None if before is None else open_tensors(before / CONTROLS)
    return {f"{PREFIX}{name}": value for name, value in next_control(control, old, after, positions, shares).items()}


def write_corrections(
    client_state: ClientState,
    temporary: Path,
    before: Path | None,
    number: int,
    positions: Sequence[int],
    rates: Sequence[float],
) -> None:
    """Keep with a round what of its clients' ways the control variates made: `C_k = -R_k correction(c, c_k)`.

    A client's steps are `-rate (gradient + correction)`, so that `W_k - V_k - C_k` is the sum of its own gradients'
    steps. In round 1, where all control variates are 0, nothing is written.

    Args:
        client_state: of the fusion.
        temporary: the folder of the round.
        before: the folder of the round before; None before the first.
        number: of the round.
        positions: of the clients whose work the round fuses, in the order of its stack.
        rates: `R_k`, the sum of the learning rates of each one's steps.
    """
    if before is None:
        return
    stack = open_tensors(before / CONTROLS)
    specs = {name: (stack[name].dtype, tuple(stack[name].shape[1:])) for name in stack}
    allocate(temporary / CORRECTIONS, stacked(specs, len(positions)))
    # One by one, and in the type of the weights, as clients compute it.
    for slot, (position, total) in enumerate(zip(positions, rates, strict=True)):
        control, own = controls_before(before / CONTROLS, number, position)
        added = client_state.correction([control[name].to(value.dtype) for name, value in own.items()], [*own.values()])
        # Subtracted from 0, so that no correction is 0 and not -0.
        moved = {name: total * (0 - correction) for name, correction in zip(own, added, strict=True)}
        write_slot(temporary / CORRECTIONS, moved, slot)


def controls_before(file: Path, number: int, position: int) -> Controls:
    """`c` and the `c_k` of the client at `position` before round `number`: a tensor for each of the trained weights."""
    rows = open_tensors(file)
    own = {name: rows[name][position] for name in rows}
    if number == 1:
        return {name: torch.zeros_like(value) for name, value in own.items()}, own
    state = open_tensors(file.with_name(NEXT_STATE))
    return {name: state[f"{PREFIX}{name}"] for name in own}, own
