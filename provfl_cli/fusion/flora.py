"""FLoRA (Wang et al. 2024, "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank
Adaptations"): adapters are stacked, so that what is averaged are their products."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from .average import example_shares
from .federation import Federation
from .fuse import Shares
from .plain import PlainServer
from .updates import Updates


@dataclass(frozen=True)
class Flora(PlainServer):
    """`W = W_prev + sum_k p_k s B_k A_k` for every layer with an adapter: the sum goes into the layer's base.

    The sum is kept as its factors (`adapters.py`); everybody starts the next round from a fresh adapter, whose `B` is
    0. All else that clients share is averaged by their examples, as FedAvg does it.
    """

    @property
    def sums_products(self) -> bool:
        """That is what it is for."""
        return True

    def check(self, federation: Federation) -> None:
        """Refuse late work: its adapters were trained beside the base of another round."""
        if federation.stragglers and federation.straggler_work == "late":
            raise InputError(
                f"federation.stragglers={federation.stragglers}: late adapters belong to the base of a former round, "
                "which fusion=flora has moved since: federation.straggler_work=partial, or fusion=fedavg"
            )

    def shares(self, updates: Updates) -> Shares:
        """By number of examples."""
        return Shares(example_shares(updates.returned.examples))
