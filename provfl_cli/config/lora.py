"""The settings of low-rank adapters (`model.adapter=lora`)."""

from dataclasses import dataclass, field
from typing import Annotated

from ..checks import BELOW_ONE, RATE, Range, in_range
from ..errors import InputError

ALL_LINEAR = "all-linear"  # every linear layer but a classifier's head, which is trained as a whole


@dataclass(frozen=True)
class Lora:
    """Adapters `W + s B A` of linear layers (Hu et al. 2022), as PEFT makes them.

    `s` is `alpha / rank`, with `rslora` `alpha / sqrt(rank)` (Kalajdzievski 2023); `dora` trains the norm of every
    output's weights apart from their direction (Liu et al. 2024). With `freeze_a` `A` stays as it was drawn from the
    seed, and `B` alone is trained and shared (FFA-LoRA, Sun et al. 2024).
    """

    rank: Annotated[int, Range(1, 4096)] = 8
    alpha: Annotated[float, RATE] = 16.0
    targets: str | list[str] = field(default=ALL_LINEAR)
    dora: bool = False
    rslora: bool = False
    dropout: Annotated[float, BELOW_ONE] = 0.0
    freeze_a: bool = False

    def __post_init__(self) -> None:
        in_range("lora", self)
        names = [self.targets] if isinstance(self.targets, str) else self.targets
        if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
            raise InputError(f"lora.targets={self.targets}: all-linear, or a list of layers such as [c_attn,c_proj]")
