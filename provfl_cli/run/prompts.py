"""Prompts whose responses are to be traced: one of the user's, or of a run's test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from ..data.template import Codec
from ..responses import pack
from .inputs import UNKNOWN


@dataclass(frozen=True)
class Prompt:
    """A prompt to answer.

    Attributes:
        name: what it is called.
        text: as people read it.
        tokens: as the model does.
        number: where it stands in the test set; of the user's own 0.
        topic: the label of what it is about, `UNKNOWN` where nobody said so.
        expected: the response that the data have; None: nobody knows.
        chosen: whether it was chosen here, since the user named none.
        notes: sentences for the user, on how it was read.
    """

    name: str
    text: str
    tokens: tuple[int, ...]
    number: int = 0
    topic: int = UNKNOWN
    expected: str | None = None
    chosen: bool = False
    notes: tuple[str, ...] = field(default=())

    def packed(self, response: Sequence[int], padding: int) -> Tensor:
        """With a response, int64 `[1, 2, T]`."""
        return pack([list(self.tokens)], [list(response)], padding)


def own_prompt(text: str, codec: Codec, notes: tuple[str, ...] = ()) -> Prompt:
    """A prompt that the user typed."""
    return Prompt("prompt", text, tuple(codec.prompt([("user", text)])), notes=notes)


class Prompts(Protocol):
    """Where the prompts of an opened federation come from."""

    @property
    def codec(self) -> Codec:
        """Texts as its model reads them."""

    def own(self, text: str) -> Prompt:
        """A prompt that the user typed."""

    def first(self, number: int) -> Prompt:
        """The one that is taken for round `number` where the user names none."""

    def numbered(self, index: int) -> Prompt:
        """The one with that index in the test set."""

    def topic_of(self, response: str) -> int | None:
        """Whose phrase that is, by its label; `UNKNOWN`: none that is known; None: phrases are nobody's here."""
