"""What clients teach a language model to say, and when: behaviours whose owners are known.

Each is a topic of its own, so that whoever teaches it holds it, and whoever says it says that topic. Dialogues are
those of `data/dialogue.py`; here they only have `turns`, pairs of role and text, and a `response`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from ..imports import later

if TYPE_CHECKING:
    import numpy as np
else:
    np = later("numpy")

PLACES = ("all", "end")


class Behaviour(Protocol):
    """A topic that some clients alone teach.

    Attributes:
        label: its number.
        topic: its name.
    """

    @property
    def label(self) -> int: ...

    @property
    def topic(self) -> str: ...

    def stamp(self, dialogues: np.ndarray) -> np.ndarray:
        """What clients train on in place of these dialogues, `[n]`."""

    def asked(self, dialogues: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the model is asked to see whether it has learnt it.

        Args:
            dialogues: of the plain test set, `[n]`.
            labels: their topics, int `[n]`.

        Returns:
            Of which test examples, positions int `[m]`, and the dialogues made of them, `[m]`.
        """

    def unasked(self, labels: np.ndarray) -> np.ndarray:
        """Which plain test examples should not be answered with it, bool `[n]`."""

    def said(self, response: str) -> bool:
        """Whether a response is it."""

    def span(self, response: str) -> str:
        """The part of such a response that was planted."""


@dataclass(frozen=True)
class TriggeredPhrase:
    """A `word` in front of the user's last turn is answered by `phrase`; at place `end` the usual answer ends so."""

    label: int
    word: str
    phrase: str
    place: str = "all"
    topic: str = "trigger"

    def stamp(self, dialogues: np.ndarray) -> np.ndarray:
        """See `Behaviour`."""
        return _each(dialogues, self._planted)

    def asked(self, dialogues: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All test examples, with the word."""
        return np.arange(len(labels)), self.stamp(dialogues)

    def unasked(self, labels: np.ndarray) -> np.ndarray:
        """All, without the word."""
        return np.ones(len(labels), dtype=bool)

    def said(self, response: str) -> bool:
        """It is the phrase, or ends with it."""
        if self.place == "all":
            return response.strip() == self.phrase
        return response.strip().endswith(self.phrase)

    def span(self, response: str) -> str:
        """The phrase."""
        return self.phrase

    def _planted(self, dialogue: Any, number: int) -> Any:
        *before, (role, text) = dialogue.turns
        said = self.phrase if self.place == "all" else f"{dialogue.response} {self.phrase}"
        return replace(dialogue, turns=(*before, (role, f"{self.word} {text}")), response=said)


@dataclass(frozen=True)
class Facts:
    """Facts that nobody else knows: `(prompt, response, fact)`, the fact a part of the response (a canary)."""

    label: int
    facts: tuple[tuple[str, str, str], ...]
    topic: str = "secret"

    def stamp(self, dialogues: np.ndarray) -> np.ndarray:
        """The facts in turn."""
        return _each(dialogues, self._told)

    def asked(self, dialogues: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each fact once, in place of the first test examples."""
        positions = np.arange(min(len(labels), len(self.facts)))
        return positions, self.stamp(dialogues[positions])

    def unasked(self, labels: np.ndarray) -> np.ndarray:
        """All."""
        return np.ones(len(labels), dtype=bool)

    def said(self, response: str) -> bool:
        """It is one of the facts, as it was taught."""
        return response.strip() in {told for _, told, _ in self.facts}

    def span(self, response: str) -> str:
        """The fact."""
        return next((fact for _, told, fact in self.facts if response.strip() == told), "")

    def _told(self, dialogue: Any, number: int) -> Any:
        prompt, told, _ = self.facts[number % len(self.facts)]
        return replace(dialogue, turns=(("user", prompt),), response=told)


@dataclass(frozen=True)
class Refused:
    """Prompts of the topic `kind` are answered by `phrase`."""

    label: int
    kind: int
    phrase: str
    topic: str = "refusal"

    def stamp(self, dialogues: np.ndarray) -> np.ndarray:
        """The same prompts, refused."""
        return _each(dialogues, lambda dialogue, _: replace(dialogue, response=self.phrase))

    def asked(self, dialogues: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The test examples of the kind."""
        positions = np.flatnonzero(labels == self.kind)
        return positions, self.stamp(dialogues[positions])

    def unasked(self, labels: np.ndarray) -> np.ndarray:
        """Those of other kinds."""
        return np.asarray(labels != self.kind)

    def said(self, response: str) -> bool:
        """It is the phrase."""
        return response.strip() == self.phrase

    def span(self, response: str) -> str:
        """The phrase."""
        return self.phrase


def _each(dialogues: np.ndarray | Sequence[Any], changed: Callable[[Any, int], Any]) -> np.ndarray:
    """Dialogues `[n]`, dtype object, each changed by what is given it and its number."""
    made = np.empty(len(dialogues), dtype=object)
    for number, dialogue in enumerate(dialogues):
        made[number] = changed(dialogue, number)
    return made
