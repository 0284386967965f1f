"""Plant faults whose origin is known: in what clients train on or return, never in the server's plain test set.

Backdoors are in `backdoor.py`, clients that do not return what they trained in `attackers.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from ..checks import CLIENT, LABEL, POSITIVE_FRACTION, in_range
from ..config.behaviour import Behaviour
from ..config.blocks import Dataset, Evaluation
from ..config.faults import Faults
from ..config.share import Share
from ..config.trigger import Trigger
from ..errors import InputError
from ..fusion.federation import Federation
from ..fusion.fuse import Fusion
from ..fusion.submission import Submission
from ..imports import later

if TYPE_CHECKING:
    import numpy as np
else:
    np = later("numpy")

NONE = Faults((), ())
STREAM = 2  # of the run's seed; the partition has stream 0, the test set 1


@dataclass(frozen=True)
class NoInjection:
    """Nothing is planted.

    `relabels`: whether what is planted gives examples another label, and so changes nothing of a response.
    """

    relabels: ClassVar[bool] = False

    def check(self, federation: Federation) -> None:
        """Nothing to check."""

    def fits(self, dataset: Dataset, evaluation: Evaluation, fusion: Fusion) -> None:
        """Triggered inputs need a trigger; responses are not changed by labels."""
        if self.relabels and dataset.input == "dialogue":
            raise InputError(
                f"injection: changes labels, and clients train on responses here (dataset={dataset.name}): "
                "injection=trigger_phrase, secret or refusal"
            )
        if evaluation.inputs == "triggered" and getattr(self, "trigger", None) is None:
            raise InputError(
                "evaluation.inputs=triggered: nothing here puts a trigger into inputs: injection=backdoor, or "
                "evaluation.inputs=wrong"
            )

    def trigger_of(self, classes: int, seed: int) -> Trigger | Behaviour | None:
        """What it puts into inputs, where it does."""
        return getattr(self, "trigger", None)

    def planted(self) -> NoInjection:
        """What is done to training data, as an injection of its own."""
        return self

    @property
    def seen_in(self) -> str | None:
        """`triggered` inputs where a trigger is planted, else `wrong` predictions."""
        if type(self) is NoInjection:
            return None
        return "wrong" if getattr(self.planted(), "trigger", None) is None else "triggered"

    def apply(self, shares: Sequence[Share], classes: int, seed: int) -> tuple[tuple[Share, ...], Faults]:
        """Return the shares as they are."""
        return tuple(shares), NONE

    def acts(self) -> dict[str, object]:
        """Nothing."""
        return {}

    def returned(self, submission: Submission) -> None:
        """Leave them."""

    def attacking(self, shares: Sequence[Share], classes: int, seed: int) -> tuple[Share, ...]:
        """Nobody trains on anything else."""
        return ()

    def attacks(self, client: int, number: int) -> bool:
        """Nobody does."""
        return False

    @property
    def attack_epochs(self) -> int | None:
        """As many as everybody."""
        return None

    def until(self, rounds: int) -> NoInjection:
        """The same, whatever their number."""
        return self

    def twin(self) -> NoInjection | None:
        """A federation in which nothing is planted, where anything was."""
        return None if type(self) is NoInjection else NoInjection()


AS_TRAINED = NoInjection()
BY_SHARE = ("smallest", "holder")  # instead of client numbers


@dataclass(frozen=True)
class LabelFlip(NoInjection):
    """Some clients train on wrong labels, and are responsible for mispredictions in which these are the answer.

    `clients` are numbers; or `smallest`, the one with the fewest examples; or `holder`, the one with most examples of
    the labels that are flipped.
    `mapping` is `all_to_zero` or pairs `{from: to}`, by class number; all pairs apply at once, so that `{1: 7, 7: 1}`
    swaps. `Faults.flips` lists the pairs of which a faulty client holds examples.
    """

    relabels: ClassVar[bool] = True

    clients: Any
    mapping: Any = "all_to_zero"

    def __post_init__(self) -> None:
        if self.clients not in BY_SHARE:
            check_client_list("injection.clients", self.clients)
        if self.mapping != "all_to_zero":
            pairs = dict(self.mapping) if isinstance(self.mapping, Mapping) else {}
            if not pairs or not all(natural(label) for pair in pairs.items() for label in pair):
                raise InputError(
                    f"injection.mapping={self.mapping}: all_to_zero, or pairs of labels such as {{1:7,7:1}}"
                )
            if all(old == new for old, new in pairs.items()):
                raise InputError(f"injection.mapping={self.mapping}: changes no label")

    def check(self, federation: Federation) -> None:
        """Refuse client numbers that no client has."""
        if self.clients not in BY_SHARE:
            check_numbers("injection.clients", self.clients, federation)

    def apply(self, shares: Sequence[Share], classes: int, seed: int) -> tuple[tuple[Share, ...], Faults]:
        """See `config.parts.Injection`."""
        pairs = dict.fromkeys(range(1, classes), 0) if self.mapping == "all_to_zero" else dict(self.mapping)
        for label in {*pairs, *pairs.values()}:
            check_label("injection.mapping", label, classes)
        if self.clients == "smallest":
            faulty = frozenset({min(shares, key=lambda share: len(share.labels)).client})
        elif self.clients == "holder":
            faulty = frozenset({max(shares, key=lambda share: np.isin(share.labels, list(pairs)).sum()).client})
        else:
            require_kept("injection.clients", self.clients, shares)
            faulty = frozenset(self.clients)
        table = np.arange(classes)
        table[list(pairs)] = list(pairs.values())
        held = {label for share in shares if share.client in faulty for label in share.labels.tolist()}
        flips = tuple((old, new) for old, new in sorted(pairs.items()) if old != new and old in held)
        if not flips:
            raise InputError(
                f"injection.mapping={self.mapping}: clients {sorted(faulty)} hold none of these labels, "
                f"but only {sorted(held)}"
            )
        changed = tuple(
            replace(share, labels=table[share.labels]) if share.client in faulty else share for share in shares
        )
        return changed, Faults(tuple(sorted(faulty)), flips)


@dataclass(frozen=True)
class NoisyLabels(NoInjection):
    """Of some clients' examples the part `rate` gets another label, each of the others as likely (symmetric noise).

    Which examples and which labels follows from the run's seed. The clients are responsible for mispredictions in which
    such a wrong label, of the same true one, is the answer; with many labels these are nearly all mispredictions.
    """

    relabels: ClassVar[bool] = True

    clients: Any = (0,)
    rate: Annotated[float, POSITIVE_FRACTION] = 0.3

    def __post_init__(self) -> None:
        check_client_list("injection.clients", self.clients)
        in_range("injection", self)

    def check(self, federation: Federation) -> None:
        """Refuse client numbers that no client has."""
        check_numbers("injection.clients", self.clients, federation)

    def apply(self, shares: Sequence[Share], classes: int, seed: int) -> tuple[tuple[Share, ...], Faults]:
        """See `config.parts.Injection`."""
        require_kept("injection.clients", self.clients, shares)
        changed, flips = [], set[tuple[int, int]]()
        for share in shares:
            if share.client in self.clients:
                rng = np.random.default_rng([seed, STREAM, share.client])
                count = len(share.labels)
                chosen = rng.permutation(count)[: max(1, round(self.rate * count))]
                labels = share.labels.copy()
                labels[chosen] = (labels[chosen] + rng.integers(1, classes, len(chosen))) % classes
                flips |= set(zip(share.labels[chosen].tolist(), labels[chosen].tolist(), strict=True))
                share = replace(share, labels=labels)
            changed.append(share)
        return tuple(changed), Faults(tuple(sorted(self.clients)), tuple(sorted(flips)))


@dataclass(frozen=True)
class ExclusiveLabel(NoInjection):
    """`label` is removed from every client but `client`, which is responsible for every correct prediction of it then.

    Without a `client` it is the one that holds most examples of the label. Nothing is wrong with that client.
    """

    client: Annotated[int | None, CLIENT] = 0
    label: Annotated[int, LABEL] = 0

    def __post_init__(self) -> None:
        in_range("injection", self)

    def check(self, federation: Federation) -> None:
        """Refuse a client number that no client has."""
        if self.client is not None:
            check_numbers("injection.client", self.client, federation)

    def apply(self, shares: Sequence[Share], classes: int, seed: int) -> tuple[tuple[Share, ...], Faults]:
        """See `config.parts.Injection`."""
        check_label("injection.label", self.label, classes)
        held = {share.client: int((share.labels == self.label).sum()) for share in shares}
        holders = [client for client, count in held.items() if count]
        if not holders:
            raise InputError(f"injection.label={self.label}: no client holds an example of it: choose another label")
        only = max(holders, key=lambda client: held[client]) if self.client is None else self.client
        require_kept("injection.client", [only], shares)
        if only not in holders:
            raise InputError(
                f"injection.client={only}: holds no examples of injection.label={self.label}: "
                f"choose one of the clients {holders}, null for the largest holder, or another label"
            )
        changed = tuple(share if share.client == only else share.only(share.labels != self.label) for share in shares)
        return changed, Faults((), (), exclusive=((only, self.label),))

    def twin(self) -> NoInjection:
        """Its holder loses the label too: what is planted here is that it alone has it."""
        return AbsentLabel(self.label)


@dataclass(frozen=True)
class AbsentLabel(NoInjection):
    """`label` is removed from every client: the clean twin of `ExclusiveLabel`."""

    label: Annotated[int, LABEL] = 0

    def apply(self, shares: Sequence[Share], classes: int, seed: int) -> tuple[tuple[Share, ...], Faults]:
        """See `config.parts.Injection`."""
        return tuple(share.only(share.labels != self.label) for share in shares), NONE


@dataclass(frozen=True)
class Duplicate(NoInjection):
    """Clients `copies` get the data of `client` in place of their own.

    Nothing is wrong with any of them. They train to the same model, so that they are responsible for every prediction
    in equal parts: a ranking has to leave them tied.
    """

    client: Annotated[int, CLIENT] = 0
    copies: Any = (1,)

    def __post_init__(self) -> None:
        in_range("injection", self)
        check_client_list("injection.copies", self.copies)
        if self.client in self.copies:
            raise InputError(f"injection.copies={list(self.copies)}: holds injection.client={self.client} itself")

    def check(self, federation: Federation) -> None:
        """Refuse client numbers that no client has."""
        check_numbers("injection.client", self.client, federation)
        check_numbers("injection.copies", self.copies, federation)

    def apply(self, shares: Sequence[Share], classes: int, seed: int) -> tuple[tuple[Share, ...], Faults]:
        """See `config.parts.Injection`."""
        require_kept("injection.client", [self.client], shares)
        require_kept("injection.copies", self.copies, shares)
        original = next(share for share in shares if share.client == self.client)
        changed = tuple(
            replace(original, client=share.client) if share.client in self.copies else share for share in shares
        )
        return changed, Faults((), (), duplicates=tuple(sorted({self.client, *self.copies})))


def natural(value: object) -> bool:
    """Whether `value` is a whole number, 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def check_client_list(key: str, clients: Any) -> None:
    """Raise InputError unless `clients` is a list of client numbers, each once."""
    numbers = list(clients) if isinstance(clients, Sequence) and not isinstance(clients, str) else []
    if not numbers or not all(map(natural, numbers)) or len(set(numbers)) < len(numbers):
        raise InputError(f"{key}={clients}: give a list of different client numbers such as [0,3]")


def check_numbers(key: str, clients: Any, federation: Federation) -> None:
    """Raise InputError unless there are clients of these numbers (of this number)."""
    numbers = [clients] if isinstance(clients, int) else list(clients)
    if max(numbers) >= federation.clients:
        setting = clients if isinstance(clients, int) else numbers
        raise InputError(f"{key}={setting}: clients are numbered 0 to {federation.clients - 1}")


def check_label(key: str, label: int, classes: int) -> None:
    """Raise InputError unless there is a class of that number."""
    if label >= classes:
        raise InputError(f"{key}: there is no label {label}, labels are numbered 0 to {classes - 1}")


def require_kept(key: str, clients: Sequence[int], shares: Sequence[Share]) -> None:
    """Raise InputError when partitioning has dropped one of the clients."""
    kept = [share.client for share in shares]
    for client in clients:
        if client not in kept:
            raise InputError(f"{key}: client {client} was dropped, it has too few examples: choose among {kept}")
