"""FFA-LoRA (Sun et al. 2024, "Improving LoRA in Privacy-preserving Federated Learning"): adapters with one factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .plain import ByExamples


@dataclass(frozen=True)
class FfaLora(ByExamples):
    """FedAvg of adapters `B A` whose `A` is frozen: `sum_k p_k (B_k A) = (sum_k p_k B_k) A`, with nothing left over.

    That `A` is frozen is a setting of the adapters (`lora.freeze_a`), which `fusion=ffa_lora` brings along: what is
    fused is then `B` and the head, as FedAvg does it.
    """

    freezes_a: ClassVar[bool] = True
