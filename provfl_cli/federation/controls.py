"""SCAFFOLD's control variates on disk: every client's in a file of the round's folder, the server's in its state.

    rounds/0001/controls.safetensors             c_k of every client kept after the round, stacked [clients, *shape]
                next_server_state.safetensors    c after the round, as control/NAME

A client reads its own row of the file of the round before, and writes its new one into that of its round.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..fusion.scaffold import next_control
from ..store.rounds import NEXT_STATE
from ..store.tensorfile import allocate, open_tensors, specs_of, stacked
from .client import trained_weights

CONTROLS = "controls.safetensors"
PREFIX = "control/"

Controls = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
"""`c` and one client's `c_k`, by the names of the trained weights."""


def begin_controls(temporary: Path, before: Path | None, model: nn.Module, clients: int) -> str:
    """Make a round's file in its `temporary` folder; returns the file that its clients read (`TrainTask.controls`).

    Args:
        temporary: the folder of the round that begins.
        before: the folder of the round before; None before the first: all control variates are 0.
        model: whose weights have control variates.
        clients: how many are kept.
    """
    file = temporary / CONTROLS
    if before is None:
        weights = {name: weight.detach() for name, weight in trained_weights(model).items()}
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


def controls_before(file: Path, number: int, position: int) -> Controls:
    """`c` and the `c_k` of the client at `position` before round `number`: a tensor for each of the trained weights."""
    rows = open_tensors(file)
    own = {name: rows[name][position] for name in rows}
    if number == 1:
        return {name: torch.zeros_like(value) for name, value in own.items()}, own
    state = open_tensors(file.with_name(NEXT_STATE))
    return {name: state[f"{PREFIX}{name}"] for name in own}, own
