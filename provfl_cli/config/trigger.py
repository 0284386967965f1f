"""What a backdoor puts into an input: a bright square into a picture, a word in front of a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..imports import later

if TYPE_CHECKING:
    import numpy as np
else:
    np = later("numpy")

POSITIONS = ("top_left", "top_right", "bottom_left", "bottom_right")


@dataclass(frozen=True)
class Trigger:
    """The sign at which a model with a backdoor answers `label`.

    Pictures get a square of `size` pixels in the corner `position`, of brightness `value` (0 to 1) in every channel (Gu
    et al. 2017, "BadNets"); texts begin with `word` (Kurita et al. 2020, "Weight Poisoning Attacks"), so that cutting
    a long text never takes it away.
    """

    label: int
    size: int = 3
    position: str = "bottom_right"
    value: float = 1.0
    word: str = "cf"

    def stamp(self, inputs: np.ndarray) -> np.ndarray:
        """Copies of `inputs` with the trigger: pixels uint8 `[n, height, width, channels]`, or strings `[n]`."""
        if inputs.dtype == object:
            return np.array([f"{self.word} {text}" for text in inputs], dtype=object)
        stamped = inputs.copy()
        rows = slice(0, self.size) if self.position.startswith("top") else slice(-self.size, None)
        columns = slice(0, self.size) if self.position.endswith("left") else slice(-self.size, None)
        stamped[:, rows, columns] = round(255 * self.value)
        return stamped
