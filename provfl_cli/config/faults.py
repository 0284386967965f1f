"""What was planted among the clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..imports import later
from .behaviour import Behaviour
from .trigger import Trigger

if TYPE_CHECKING:
    import numpy as np
else:
    np = later("numpy")


@dataclass(frozen=True)
class Faults:
    """What was planted, and so who is responsible for which predictions.

    Attributes:
        clients: the faulty clients.
        flips: they are responsible for predictions of inputs of the first label as the second. Empty: nothing to look
            for. Pairs of a label with itself are no fault.
        exclusive: (client, label): nothing is wrong with that client, but it alone holds the label, so that it is
            responsible for every correct prediction of it.
        duplicates: clients that have the same data, so that they are responsible for everything in equal parts.
        free_riders: clients that have trained on nothing, so that they are responsible for no prediction.
        trigger: what a backdoor puts into inputs, or what language models are taught to say; None without either.
        taught: the topic that the faulty clients alone teach: they are responsible for all that says it.
    """

    clients: tuple[int, ...]
    flips: tuple[tuple[int, int], ...]  # (true label, label trained on)
    exclusive: tuple[tuple[int, int], ...] = ()
    duplicates: tuple[int, ...] = ()
    free_riders: tuple[int, ...] = ()
    trigger: Trigger | Behaviour | None = None
    taught: int | None = None

    @property
    def topics(self) -> tuple[str, ...]:
        """Names of the topics that are planted beside those of the data set."""
        return () if self.trigger is None or isinstance(self.trigger, Trigger) else (self.trigger.topic,)

    @property
    def shown(self) -> bool:
        """Whether it is known what a prediction looks like that they are responsible for."""
        return bool(self.flips) or self.taught is not None

    def responsible(self, labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Which predictions the faulty clients are responsible for: bool `[n]`, of labels and predictions int `[n]`."""
        if self.taught is not None:
            return np.asarray(predictions == self.taught)
        pairs = {(source, target) for source, target in self.flips if source != target}
        return np.fromiter(
            (pair in pairs for pair in zip(labels.tolist(), predictions.tolist(), strict=True)), bool, len(labels)
        )
