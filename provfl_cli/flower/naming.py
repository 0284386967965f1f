"""Which client a Flower node is: a name and a number that stay the same over rounds and over restarts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from typing import Any

from ..recording.rounds import NotRecorded
from ..store.stored_values import LARGEST_NUMBER
from .messages import Node

Names = Mapping[Any, str] | Callable[[Node], object] | str | None
"""Names by node id, a function of the node id, or the key of a metric that every client sends; None: by node id."""


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
    nodes: dict[Node, str] = field(default_factory=dict)
    examples: dict[int, int] = field(default_factory=dict)

    def called(self, node: Node) -> str:
        """What a node is called, as far as is known without a reply of it."""
        if node in self.nodes:
            return self.nodes[node]
        if isinstance(self.names, Mapping):
            return str(_named(self.names, node) or f"node {node}")
        return f"node {node}"

    def number(self, node: Node) -> int | None:
        """The number of a node's client; None for one that has never returned a model."""
        return self.numbers.get(self.called(node))

    def enter(self, replies: Mapping[Node, Mapping[str, object]]) -> dict[Node, int]:
        """The numbers of the nodes that replied, whose metrics `replies` holds; new ones are given the next.

        A whole number under the metric key, or from the function, is the client's number (partition 3 is client 3) as
        long as that is free.

        Raises:
            NotRecorded: two nodes have the same name, one sent none, or the function that names them failed.
        """
        wanted = dict[Node, int]()
        for node, metrics in replies.items():
            if isinstance(self.names, str):
                self.nodes[node], wanted[node] = _by_metric(metrics, self.names)
            elif callable(self.names):
                self.nodes[node], wanted[node] = _by_function(self.names, node)
            else:
                self.nodes[node] = self.called(node)
        entered = dict[Node, int]()
        for node in sorted(replies, key=lambda node: (wanted.get(node, -1), self.nodes[node], str(node))):
            name, number = self.nodes[node], wanted.get(node, -1)
            if name not in self.numbers:
                taken = set(self.numbers.values())
                free = number if number >= 0 and number not in taken else max(taken, default=-1) + 1
                self.numbers[name] = free
            entered[node] = self.numbers[name]
        if len(set(entered.values())) < len(entered):
            alike = sorted(self.nodes[node] for node in replies)
            twice = next(name for name, following in pairwise(alike) if name == following)
            raise NotRecorded(f"two nodes are called {twice!r}: give every client a name of its own")
        return entered


def _named(names: Mapping[Any, str], node: Node) -> str | None:
    """The name of a node; where node ids are texts, numbers name them as well."""
    if isinstance(node, str) and node not in names and node.isdecimal():
        return names.get(int(node))
    return names.get(node)


def _by_metric(metrics: Mapping[str, object], key: str) -> tuple[str, int]:
    """The name that a client's metric gives it, and the number that it asks for; -1: any, or it is too large."""
    value = metrics.get(key)
    if value is None or isinstance(value, list):
        raise NotRecorded(
            f"a reply has no metric {key!r}, by which clients are told apart: let every client send it, or name them "
            "by node id or by a function"
        )
    return _name_and_number(value, f"{key} ")


def _by_function(names: Callable[[Node], object], node: Node) -> tuple[str, int]:
    """The name that the user's function gives a node, and the number that it asks for."""
    try:
        value = names(node)
    except Exception as error:
        raise NotRecorded(f"the function that names clients failed for node {node}: {error!r}") from error
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise NotRecorded(
            f"the function that names clients returned {value!r} for node {node}: give a text or a whole number"
        )
    return _name_and_number(value, "client ")


def _name_and_number(value: object, before: str) -> tuple[str, int]:
    if isinstance(value, int | float) and isfinite(value) and value >= 0 and value == int(value):
        return f"{before}{int(value)}", int(value) if value <= LARGEST_NUMBER else -1
    return str(value), -1
