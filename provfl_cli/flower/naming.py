"""Which client a Flower node is: a name and a number that stay the same over rounds and over restarts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite

from flwr.app import RecordDict

from ..store.stored_values import LARGEST_NUMBER
from .messages import NotRecorded, metric_of

Names = Mapping[int, str] | str | None
"""Names by node id, or the key of a metric that every client sends; None: nodes are called by their id."""


@dataclass
class Register:
    """The clients seen so far.

    Attributes:
        names: where names come from.
        numbers: the number of each name.
        nodes: what each node was called last.
        examples: training examples of each client in the latest round in which it took part, by number.
    """

    names: Names
    numbers: dict[str, int] = field(default_factory=dict)
    nodes: dict[int, str] = field(default_factory=dict)
    examples: dict[int, int] = field(default_factory=dict)

    def called(self, node: int) -> str:
        """What a node is called, as far as is known without a reply of it."""
        if node in self.nodes:
            return self.nodes[node]
        return self.names.get(node, f"node {node}") if isinstance(self.names, Mapping) else f"node {node}"

    def number(self, node: int) -> int | None:
        """The number of a node's client; None for one that has never returned a model."""
        return self.numbers.get(self.called(node))

    def enter(self, replies: Mapping[int, RecordDict]) -> dict[int, int]:
        """The numbers of the nodes that replied; new ones are given the next.

        A whole number under the metric key is the client's number (partition 3 is client 3) as long as that is free.

        Raises:
            NotRecorded: two nodes have the same name, or one sent none.
        """
        wanted = dict[int, int]()
        for node, content in replies.items():
            if isinstance(self.names, str):
                self.nodes[node], wanted[node] = _by_metric(content, self.names)
            else:
                self.nodes[node] = self.called(node)
        numbers = dict[int, int]()
        for node in sorted(replies, key=lambda node: (wanted.get(node, -1), self.nodes[node], node)):
            name, number = self.nodes[node], wanted.get(node, -1)
            if name not in self.numbers:
                taken = set(self.numbers.values())
                free = number if number >= 0 and number not in taken else max(taken, default=-1) + 1
                self.numbers[name] = free
            numbers[node] = self.numbers[name]
        if len(set(numbers.values())) < len(numbers):
            alike = sorted(self.nodes[node] for node in replies)
            twice = next(name for name, other in pairwise(alike) if name == other)
            raise NotRecorded(f"two nodes are called {twice!r}: give every client a name of its own with names=")
        return numbers


def _by_metric(content: RecordDict, key: str) -> tuple[str, int]:
    """The name that a client's metric gives it, and the number that it asks for; -1: any, or it is too large."""
    value = metric_of(content, key)
    if value is None or isinstance(value, list):
        raise NotRecorded(
            f"a reply has no metric {key!r}, by which names= tells clients apart: let every client send it"
        )
    if isinstance(value, int | float) and isfinite(value) and value >= 0 and value == int(value):
        return f"{key} {int(value)}", int(value) if value <= LARGEST_NUMBER else -1
    return str(value), -1
