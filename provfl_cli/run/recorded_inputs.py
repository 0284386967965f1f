"""Inputs that the user brought for a recorded federation, as its model reads them, and as people do where known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..provenance.outputs import Inputs as NamedInputs
from ..provenance.outputs import rows_of
from .inputs import UNKNOWN, TracedInputs


@dataclass(frozen=True)
class TensorInputs:
    """Inputs that the user brought as the model reads them.

    Attributes:
        inputs: `[n, …]`, or by argument name.
        labels: int64 `[n]`.
        wanted: float64 `[n, numbers]`, see `TracedInputs`.
        texts: of the inputs, None where they are not known.
        notes: how they were read.
        encode: what the model reads of a text; None: nobody knows.
    """

    inputs: NamedInputs
    labels: np.ndarray
    wanted: np.ndarray | None = None
    texts: tuple[str | None, ...] | None = None
    notes: tuple[str, ...] = ()
    encode: Callable[[str], NamedInputs] | None = None

    def first(self, number: int) -> TracedInputs:
        """The first of them."""
        return self._rows(slice(0, 1), chosen=True)

    def numbered(self, index: int) -> TracedInputs:
        """One of them."""
        if not 0 <= index < len(self.labels):
            more = "".join(f" ({note.removeprefix('--data: ')})" for note in self.notes if " were read" in note)
            raise InputError(f"--input {index}: --data has inputs 0 to {len(self.labels) - 1}{more}")
        return self._rows(slice(index, index + 1))

    def picture(self, file: Path) -> TracedInputs:
        """Refused: nobody knows how."""
        raise InputError(f"--image {file}: {_NOT_KNOWN}")

    def text(self, text: str) -> TracedInputs:
        """Encoded by the tokenizer that was given."""
        if self.encode is None:
            raise InputError(f"--text: {_NOT_KNOWN}; of texts by --tokenizer FOLDER_OR_FILE")
        if not text.strip():
            raise InputError("--text: is empty")
        unknown = np.array([UNKNOWN])
        return TracedInputs(self.encode(text), np.array([0]), unknown, (text,), ("text",), new=True, notes=self.notes)

    def many(self, path: Path) -> TracedInputs:
        """All of them, by the word `all`; files are refused."""
        if str(path) != "all":
            raise InputError(f"--inputs {path}: {_NOT_KNOWN}; --inputs all traces all of --data")
        return self._rows(slice(None))

    def at_hand(self, number: int) -> NamedInputs | None:
        """All of them."""
        return self.inputs

    def _rows(self, where: slice, chosen: bool = False) -> TracedInputs:
        numbers = np.arange(len(self.labels))[where]
        inputs = rows_of(self.inputs, where)
        return TracedInputs(
            inputs,
            numbers,
            self.labels[where],
            self._shown(inputs, where, len(numbers)),
            tuple(f"input {number}" for number in numbers),
            chosen,
            notes=self.notes,
            wanted=None if self.wanted is None else self.wanted[where],
        )

    def _shown(self, inputs: NamedInputs, where: slice, count: int) -> tuple[np.ndarray | str | None, ...]:
        """Texts, or pictures where the only tensor with fractions may be one."""
        if self.texts is not None:
            return self.texts[where]
        pictures = [inputs] if isinstance(inputs, Tensor) else [t for t in inputs.values() if t.is_floating_point()]
        return tuple(map(_drawn, pictures[0])) if len(pictures) == 1 else (None,) * count


_NOT_KNOWN = (
    "how this federation turned it into numbers is not known: give what the model reads by --data FILE.safetensors, "
    "and choose by --input INDEX"
)


def _drawn(tensor: Tensor) -> np.ndarray | None:
    """A picture of what may be one, its values stretched to 0..255; None of what cannot be."""
    if tensor.dim() != 3 or tensor.shape[0] not in (1, 3) or not tensor.is_floating_point():
        return None
    low, high = tensor.min(), tensor.max()
    stretched = (tensor - low) / (high - low).clamp_min(torch.finfo(tensor.dtype).tiny) * 255
    return stretched.round().to(torch.uint8).permute(1, 2, 0).numpy()
