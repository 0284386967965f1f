"""FedNova (Wang et al. 2020, "Tackling the Objective Inconsistency Problem", algorithm 1 and eq. 6 to 9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..checks import BELOW_ONE, Range, in_range, one_of
from ..errors import InputError
from ..imports import later
from .average import example_shares
from .decomposition import Multiplier
from .federation import Federation
from .fuse import Shares
from .plain import PlainServer
from .updates import Updates

if TYPE_CHECKING:
    import torch
else:
    torch = later("torch")


@dataclass(frozen=True)
class FedNova(PlainServer):
    """Normalised averaging: `A_k = p_k tau_eff / |a_k|_1`, so that clients that make more steps do not count for more.

    `a_k` holds how much each gradient of client k counts in its update; `local_norm` gives its sum. `tau_eff` is how
    many steps the server makes along the average: `norms`, `sum p_k |a_k|_1` (with equal `|a_k|_1` this is FedAvg), or
    `steps`, `sum p_k tau_k`. For plain SGD the two are one. A client that made no step has no share.
    """

    momentum: Annotated[float, BELOW_ONE] = 0.0  # of the clients' SGD
    warmup_steps: Annotated[int, Range(0, 10_000_000)] = 0
    effective_steps: str = "norms"

    def __post_init__(self) -> None:
        one_of("fusion.effective_steps", self.effective_steps, ("norms", "steps"))
        in_range("fusion", self)

    def check(self, federation: Federation) -> None:
        """Refuse clients whose update is no sum of gradients with known factors, and factors that are not theirs."""
        if federation.optimizer != "sgd":
            raise InputError(
                f"federation.optimizer={federation.optimizer}: fusion=fednova is defined for SGD: "
                "federation.optimizer=sgd (and a federation.learning_rate for it)"
            )
        for key in ("momentum", "warmup_steps"):
            ours, theirs = getattr(self, key), getattr(federation, key)
            if ours != theirs:
                raise InputError(
                    f"fusion.{key}={ours}: is that of the clients' SGD, set federation.{key}={ours} instead "
                    f"(it is {theirs})"
                )

    @property
    def needs_steps(self) -> bool:
        """They are what updates are divided by."""
        return True

    @property
    def averages(self) -> bool:
        """Each client's weight is its own."""
        return True

    def shares(self, updates: Updates) -> Shares:
        """By number of examples, each divided by what the client's own steps add up to."""
        steps = updates.returned.steps
        weights = example_shares(updates.returned.examples)
        norms = torch.tensor(
            [local_norm(count, self.momentum, self.warmup_steps) for count in steps], dtype=torch.float64
        )
        counted = norms if self.effective_steps == "norms" else torch.tensor(list(steps), dtype=torch.float64)
        factors = torch.where(norms > 0, float(weights @ counted) / norms, 0.0)
        return Shares(weights, dict.fromkeys(updates.names, Multiplier(factors)))


def local_norm(steps: int, momentum: float, warmup_steps: int = 0) -> float:
    """`|a_k|_1`: how much the gradients of so many SGD steps count together, in units of the learning rate.

    Step s, from 1, moves by `l_s v_s`, `v_s = sum_(i <= s) momentum^(s-i) g_i`, and `l_s = min(1, s / warmup_steps)` of
    the learning rate: `|a_k|_1 = sum_s l_s (1 - momentum^s) / (1 - momentum)`. Without warm-up this is the paper's
    `(steps - momentum (1 - momentum^steps) / (1 - momentum)) / (1 - momentum)`, and `steps` without momentum.
    """
    ramp = max(warmup_steps, 1)
    return sum(min(1.0, step / ramp) * (1 - momentum**step) for step in range(1, steps + 1)) / (1 - momentum)
