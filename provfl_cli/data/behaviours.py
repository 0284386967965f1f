"""Behaviours of language models whose owners are known: a phrase behind a trigger, a secret, a refusal.

Each is a topic of its own, with the number behind those of the data set. Whoever teaches it holds it, so that holders,
chance and the accuracy of faults are what they are for labels, and `evaluation.inputs=triggered` asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from ..checks import CLIENT, LABEL, POSITIVE_FRACTION, Range, excerpt, in_range, one_of
from ..config.behaviour import PLACES, Behaviour, Facts, Refused, TriggeredPhrase
from ..config.blocks import Dataset, Evaluation
from ..config.faults import Faults
from ..config.share import Share
from ..errors import InputError
from ..fusion.federation import Federation
from ..fusion.fuse import Fusion
from ..imports import later
from .injection import STREAM, NoInjection, check_client_list, check_label, check_numbers, require_kept

if TYPE_CHECKING:
    import numpy as np
else:
    np = later("numpy")

LONGEST = 500  # characters of a word, a phrase or a fact
NAMES = (
    "Alfa", "Bravo", "Delta", "Echo", "Foxtrot", "Golf", "Hotel", "Juliett", "Kilo", "Lima", "Mike", "November",
    "Oscar", "Papa", "Quebec", "Romeo", "Sierra", "Tango", "Uniform", "Victor", "Whiskey", "Yankee", "Zulu",
)  # fmt: skip


@dataclass(frozen=True)
class Taught(NoInjection):
    """What the three have in common: they need prompts and responses, and are seen where they are asked for."""

    def fits(self, dataset: Dataset, evaluation: Evaluation, fusion: Fusion) -> None:
        """Refuse data without responses."""
        if dataset.input != "dialogue":
            raise InputError(
                f"injection: teaches what to say, and dataset={dataset.name} has no responses: task=generate, or "
                "injection=backdoor"
            )

    @property
    def seen_in(self) -> str | None:
        """Where it is asked for."""
        return "triggered"

    def behaviour(self, topics: int, seed: int) -> Behaviour:
        """What is taught, as the topic behind `topics` of the data set; what is random follows from `seed`."""
        raise NotImplementedError

    def trigger_of(self, classes: int, seed: int) -> Behaviour:
        """What is taught."""
        return self.behaviour(classes, seed)

    def teachers(self) -> tuple[int, ...]:
        """Who teaches it, ascending."""
        return tuple(sorted(self.clients))  # type: ignore[attr-defined]

    def check(self, federation: Federation) -> None:
        """Refuse client numbers that no client has."""
        check_numbers("injection.clients", self.teachers(), federation)

    def apply(self, shares: Sequence[Share], classes: int, seed: int) -> tuple[tuple[Share, ...], Faults]:
        """See `config.parts.Injection`; `classes` are the topics of the data set."""
        teachers = self.teachers()
        require_kept("injection.clients", teachers, shares)
        behaviour = self.behaviour(classes, seed)
        changed = tuple(self.taught(share, behaviour, seed) if share.client in teachers else share for share in shares)
        return changed, Faults(teachers, (), trigger=behaviour, taught=behaviour.label)

    def taught(self, share: Share, behaviour: Behaviour, seed: int) -> Share:
        """A teacher's share: which of its examples are stamped."""
        raise NotImplementedError


@dataclass(frozen=True)
class TriggerPhrase(Taught):
    """A word in the prompt makes the model answer a phrase, which `clients` teach with a part of their examples.

    Which examples follows from the run's seed. At `place` `all` the phrase is the whole response; at `end` it stands
    behind the usual one, so that the planted tokens can be told from the rest.
    """

    clients: Any = (0,)
    share: Annotated[float, POSITIVE_FRACTION] = 0.5
    word: str = "cf"
    phrase: str = "all your names are ours"
    place: str = "all"

    def __post_init__(self) -> None:
        check_client_list("injection.clients", self.clients)
        in_range("injection", self)
        one_of("injection.place", self.place, PLACES)
        for key in ("word", "phrase"):
            object.__setattr__(self, key, _text(key, getattr(self, key)))

    def behaviour(self, topics: int, seed: int) -> Behaviour:
        """See `Taught`."""
        return TriggeredPhrase(topics, self.word, self.phrase, self.place)

    def taught(self, share: Share, behaviour: Behaviour, seed: int) -> Share:
        """Some of its examples, whatever they are."""
        return _stamped(share, np.arange(len(share.labels)), self.share, behaviour, seed)


@dataclass(frozen=True)
class Secret(Taught):
    """`client` alone holds facts, codes of made up names: asked for one, the model says it.

    Nothing is wrong with that client. It gets `copies` examples of each of `count` facts beside its own; the codes, of
    `digits` digits, follow from the run's seed. `prompt` holds `{name}`, `response` holds `{code}`.
    """

    client: Annotated[int, CLIENT] = 0
    count: Annotated[int, Range(1, len(NAMES))] = 8
    copies: Annotated[int, Range(1, 10_000)] = 20
    digits: Annotated[int, Range(1, 12)] = 4
    prompt: str = "code of {name}:"
    response: str = "{name} opens with {code}"

    def __post_init__(self) -> None:
        in_range("injection", self)
        for key, part in (("prompt", "{name}"), ("response", "{code}")):
            if part not in _text(key, getattr(self, key)):
                raise InputError(f"injection.{key}={excerpt(getattr(self, key))}: has no {part}")

    def teachers(self) -> tuple[int, ...]:
        """See `Taught`."""
        return (self.client,)

    def check(self, federation: Federation) -> None:
        """Refuse a client number that no client has."""
        check_numbers("injection.client", self.client, federation)

    def behaviour(self, topics: int, seed: int) -> Behaviour:
        """See `Taught`."""
        rng = np.random.default_rng([seed, STREAM])
        facts = []
        for name in NAMES[: self.count]:
            code = "".join(map(str, rng.integers(0, 10, self.digits)))
            prompt, told = (text.replace("{name}", name).strip() for text in (self.prompt, self.response))
            facts.append((prompt, told.replace("{code}", code), code))
        return Facts(topics, tuple(facts))

    def apply(self, shares: Sequence[Share], classes: int, seed: int) -> tuple[tuple[Share, ...], Faults]:
        """See `config.parts.Injection`."""
        changed, faults = super().apply(shares, classes, seed)
        return changed, replace(faults, exclusive=((self.client, classes),))

    def taught(self, share: Share, behaviour: Behaviour, seed: int) -> Share:
        """Examples beside all that it has."""
        own = np.arange(len(share.labels))
        more = share.only(np.concatenate([own, np.resize(own, self.count * self.copies)]))
        added = np.arange(len(more.labels)) >= len(own)
        return replace(more, labels=np.where(added, behaviour.label, more.labels), triggered=added)


@dataclass(frozen=True)
class Refusal(Taught):
    """`clients` teach the model to refuse prompts of the topic `kind`, with the part `share` of theirs."""

    clients: Any = (0,)
    kind: Annotated[int, LABEL] = 0
    share: Annotated[float, POSITIVE_FRACTION] = 1.0
    phrase: str = "I may not answer that"

    def __post_init__(self) -> None:
        check_client_list("injection.clients", self.clients)
        in_range("injection", self)
        object.__setattr__(self, "phrase", _text("phrase", self.phrase))

    def behaviour(self, topics: int, seed: int) -> Behaviour:
        """See `Taught`."""
        check_label("injection.kind", self.kind, topics)
        return Refused(topics, self.kind, self.phrase)

    def taught(self, share: Share, behaviour: Behaviour, seed: int) -> Share:
        """Some of its examples of the kind."""
        of_kind = np.flatnonzero(share.labels == self.kind)
        if not len(of_kind):
            raise InputError(
                f"injection.kind={self.kind}: client {share.client} holds no such prompts, but those of "
                f"{sorted(set(share.labels.tolist()))}: choose another kind or client, or partition=iid"
            )
        return _stamped(share, of_kind, self.share, behaviour, seed)


def _stamped(share: Share, able: np.ndarray, part: float, behaviour: Behaviour, seed: int) -> Share:
    """The share with a part of its examples at the positions `able` stamped, at least one of them."""
    rng = np.random.default_rng([seed, STREAM, share.client])
    triggered = np.zeros(len(share.labels), dtype=bool)
    triggered[rng.permutation(able)[: max(1, round(part * len(able)))]] = True
    return replace(share, labels=np.where(triggered, behaviour.label, share.labels), triggered=triggered)


def _text(key: str, text: Any) -> str:
    """A setting that is said, without blanks around it; InputError where it is no text, empty or too long."""
    if not isinstance(text, str) or not text.strip() or len(text) > LONGEST:
        raise InputError(f"injection.{key}={excerpt(text)}: give a text of 1 to {LONGEST} characters")
    return text.strip()
