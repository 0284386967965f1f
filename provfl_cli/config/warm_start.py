"""The settings of a base model that is made here, on data that no client holds."""

from dataclasses import dataclass
from typing import Annotated

from ..checks import COUNT, RATE, Range, in_range


@dataclass(frozen=True)
class WarmStart:
    """AdamW on the public part of a dataset, with one cycle of the learning rate, before the federation starts.

    Only where the dataset has a public part to make one of (`phrases`), and the model starts from no published weights.
    """

    steps: Annotated[int, Range(0, 10_000_000)] = 400
    batch_size: Annotated[int, COUNT] = 32
    learning_rate: Annotated[float, RATE] = 0.002

    def __post_init__(self) -> None:
        in_range("warm_start", self)
