"""What all batches of a trace share, and what one batch adds up to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .settings import Provenance
from .stack import Stack
from .structure import Structure


@dataclass(frozen=True)
class Setup:
    """What all batches of a trace share.

    `betas` by module name, `chosen` the modules that are contracted, `with_mass` also sums absolute values (only needed
    to tell rounding from a mistake). `alone` are the parameters whose gradient autograd computes, one input at a time;
    `recorded` says whether any other is followed by the recorder. `unproven` are those that had no gradient where the
    recorder was compared with autograd. `pairs` are the LoRA layers that are traced as products: A's name by B's.
    `last_layer` is the module that makes a language model's logits, None: it is not known to be one. What bounds logits
    (Gemma's tanh) is no activation function: they are not masked.
    """

    structure: Structure
    stack: Stack
    settings: Provenance
    betas: Mapping[str, float]
    chosen: frozenset[str]
    with_mass: bool = False
    alone: frozenset[str] = frozenset()
    recorded: bool = True
    unproven: frozenset[str] = frozenset()
    pairs: Mapping[str, str] = field(default_factory=dict)
    last_layer: str | None = None

    def are_logits(self, layer: str) -> bool:
        """Whether a layer's outputs are a language model's logits: the last layer, or what it is wrapped round."""
        return self.last_layer is not None and f"{layer}.".startswith(f"{self.last_layer}.")


@dataclass
class Sums:
    """What one batch adds up: rows of the stack, the right side of conservation, and notes on layers."""

    rows: Tensor  # [batch, stack rows], in `Stack.wide`
    right: Tensor  # [batch]
    mass: Tensor  # [batch], the absolute values behind `right`
    wanted: Tensor  # int64 [batch]: which class or output is explained; of mse [batch, numbers]: what it should be
    logits: Tensor  # [batch, classes], or all numbers that the model puts out
    layers: dict[str, Tensor] = field(default_factory=dict)  # [sample, clients]
    active: dict[str, Tensor] = field(default_factory=dict)  # [sample]
    neurons: dict[str, Tensor] = field(default_factory=dict)  # [sample]
    masked: dict[str, None] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    unchecked: dict[str, None] = field(default_factory=dict)
    unruled: dict[str, str] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)  # what the model did, in words that `probe` compares
    attended: Tensor | None = None  # bool [batch, T]: positions that are not padding; None: there is no padding
    products: set[str] = field(default_factory=set)  # the B of LoRA layers that were traced as products
    apart: set[str] = field(default_factory=set)  # factors of adapters that were not
    pool: list[tuple[str, str, Tensor]] = field(default_factory=list)  # layer, parameter, beta * G [batch, numbers]

    def for_next_target(self) -> Sums:
        """Nothing added up yet, of the same forward pass."""
        return Sums(
            torch.zeros_like(self.rows),
            torch.zeros_like(self.right),
            torch.zeros_like(self.mass),
            self.wanted,
            self.logits,
            masked=self.masked,
            seen=self.seen,
            unruled=self.unruled,
            shown=self.shown,
            attended=self.attended,
            products=self.products,
            apart=self.apart,
        )


DRAWS, WRITES = "random numbers are drawn", "parameters are written to"  # in `Sums.shown`
Target = tuple[str, Tensor | None]  # kind of target, and what is explained, as `Sums.wanted`; None: the kind's default
