"""What a client is about to return to the server: where privacy and planted faults may still change it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Submission:
    """A client's trained model on its way to the server; its tensors are changed in place.

    Attributes:
        weights: `W_k`, buffers included, by name.
        start: `V_k`, the model that the client received.
        buffers: names that are no parameters.
        seed: of the run, for what is drawn.
        round: its number.
        client: its number.
        attack_share: where it attacks in this round: what part of the examples of all whose work is fused the attackers
            have together; None where it does not, or nobody has said so.
    """

    weights: Mapping[str, Tensor]
    start: Mapping[str, Tensor]
    buffers: Collection[str]
    seed: int
    round: int
    client: int
    attack_share: float | None = None
