"""Conservation: the contributions must add up to what the running model's layers put out (design section 2.5)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import RunError
from .stack import Stack

# A residual below it is what the storage type allows.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
# Rounding is relative to the absolute values that were summed; a difference below this share of them is rounding too,
# also where contributions cancel so that the residual is large.
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-14}


def left_side(rows: Tensor, stack: Stack) -> Tensor:
    """All stack rows `[batch, rows]` as they enter the fused model: clients with `q_k`, the others as they are."""
    shares = stack.source.decomposition.example_weights.to(rows.device, rows.dtype)
    return rows[:, : stack.size] @ shares + rows[:, stack.size : stack.counted].sum(1)


def residuals(rows: Tensor, right: Tensor, stack: Stack) -> tuple[Tensor, Tensor]:
    """`|left - right| / (sum |T_k| + |T_U|)` for every input, with the `q_k`, and the difference itself."""
    difference = (left_side(rows, stack) - right).abs()
    shares = stack.source.decomposition.example_weights.to(rows.device, rows.dtype)
    clients, unsent = rows[:, : stack.size], rows[:, stack.size : stack.size + len(stack.kinds)]
    scale = clients.abs() @ shares + unsent.abs().sum(1)
    return difference / scale.clamp_min(torch.finfo(scale.dtype).tiny), difference


def suspicious(residual: Tensor, dtype: torch.dtype) -> bool:
    """Whether some residual needs a look at what was summed, to tell rounding from a mistake."""
    return not bool((residual <= TOLERANCE[dtype]).all())


def check(residual: Tensor, difference: Tensor, mass: Tensor, dtype: torch.dtype) -> None:
    """Raise RunError where the difference is larger than rounding can make it.

    Args:
        residual, difference: from `residuals`, `[inputs]`.
        mass: sum of the absolute values behind the right side, `[inputs]`.
        dtype: in which the trace was computed.
    """
    wrong = ~(residual <= TOLERANCE[dtype]) & ~(difference <= ROUNDING[dtype] * mass)
    if bool(wrong.any()):
        worst = int(torch.where(wrong, residual, torch.zeros_like(residual)).argmax())
        raise RunError(
            f"conservation fails for {int(wrong.sum())} of {len(wrong)} inputs (worst: input {worst}, residual "
            f"{float(residual[worst]):.2e}): the clients' contributions do not add up to the global model's output; "
            "the round's decomposition and its stored weights do not belong together, or a layer rule is wrong"
        )
