"""Plant faults whose origin is known: they change what clients train on, never the server's test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..config.schema import Federation
from ..errors import InputError
from .federated import Faults
from .partition import Share

NONE = Faults((), ())


class Injection(Protocol):
    """What an injection does."""

    def apply(self, shares: Sequence[Share], classes: int) -> tuple[tuple[Share, ...], Faults]:
        """Return the shares as the clients train on them, and what was planted.

        Raises:
            InputError: a client that is not among `shares`, a label that does not exist or that nobody holds.
        """


@dataclass(frozen=True)
class NoInjection:
    """Nothing is planted."""

    def apply(self, shares: Sequence[Share], classes: int) -> tuple[tuple[Share, ...], Faults]:
        """Return the shares as they are."""
        return tuple(shares), NONE


@dataclass(frozen=True)
class LabelFlip:
    """Some clients train on wrong labels.

    `mapping` is `all_to_zero` or pairs `{from: to}`, by class number; all pairs apply at once, so that `{1: 7, 7: 1}`
    swaps. `Faults.flips` lists the pairs of which a faulty client holds examples.
    """

    clients: Any
    mapping: Any = "all_to_zero"

    def __post_init__(self) -> None:
        clients = list(self.clients) if isinstance(self.clients, Sequence) and not isinstance(self.clients, str) else []
        if not clients or not all(_natural(client) for client in clients):
            raise InputError(f"injection.clients={self.clients}: give a list of client numbers such as [0,3]")
        if self.mapping != "all_to_zero":
            pairs = dict(self.mapping) if isinstance(self.mapping, Mapping) else {}
            if not pairs or not all(_natural(label) for pair in pairs.items() for label in pair):
                raise InputError(
                    f"injection.mapping={self.mapping}: all_to_zero, or pairs of labels such as {{1:7,7:1}}"
                )
            if all(old == new for old, new in pairs.items()):
                raise InputError(f"injection.mapping={self.mapping}: changes no label")

    def check(self, federation: Federation) -> None:
        """Refuse client numbers that no client has."""
        for client in self.clients:
            _check_number(f"injection.clients={list(self.clients)}", client, federation)

    def apply(self, shares: Sequence[Share], classes: int) -> tuple[tuple[Share, ...], Faults]:
        """See `Injection`."""
        import numpy as np

        pairs = dict.fromkeys(range(1, classes), 0) if self.mapping == "all_to_zero" else dict(self.mapping)
        for label in {*pairs, *pairs.values()}:
            _check_label("injection.mapping", label, classes)
        for client in self.clients:
            _require_kept("injection.clients", client, shares)
        table = np.arange(classes)
        table[list(pairs)] = list(pairs.values())
        faulty = frozenset(self.clients)
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
class ExclusiveLabel:
    """`label` is removed from every client but `client`, its only holder then. Nothing is wrong with that client."""

    client: int = 0
    label: int = 0

    def __post_init__(self) -> None:
        for key, value in (("client", self.client), ("label", self.label)):
            if not _natural(value):
                raise InputError(f"injection.{key}={value}: must be a whole number, 0 or more")

    def check(self, federation: Federation) -> None:
        """Refuse a client number that no client has."""
        _check_number(f"injection.client={self.client}", self.client, federation)

    def apply(self, shares: Sequence[Share], classes: int) -> tuple[tuple[Share, ...], Faults]:
        """See `Injection`."""
        _check_label("injection.label", self.label, classes)
        _require_kept("injection.client", self.client, shares)
        holders = [share.client for share in shares if (share.labels == self.label).any()]
        if self.client not in holders:
            raise InputError(
                f"injection.client={self.client}: holds no examples of injection.label={self.label}: "
                f"choose one of the clients {holders} or another label"
            )
        changed = tuple(
            share if share.client == self.client else share.only(share.labels != self.label) for share in shares
        )
        return changed, NONE


def _natural(value: object) -> bool:
    """Whether `value` is a whole number, 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_number(key: str, client: int, federation: Federation) -> None:
    """Raise InputError unless there is a client of that number."""
    if client >= federation.clients:
        raise InputError(f"{key}: clients are numbered 0 to {federation.clients - 1}")


def _check_label(key: str, label: int, classes: int) -> None:
    """Raise InputError unless there is a class of that number."""
    if label >= classes:
        raise InputError(f"{key}: there is no label {label}, labels are numbered 0 to {classes - 1}")


def _require_kept(key: str, client: int, shares: Sequence[Share]) -> None:
    """Raise InputError when partitioning has dropped the client."""
    kept = [share.client for share in shares]
    if client not in kept:
        raise InputError(f"{key}: client {client} was dropped, it has too few examples: choose among {kept}")
