"""`round.json` read as data, whoever wrote it: every value of its type, within its range, and of one round."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..fusion.buffered import Buffered
from ..fusion.lineage_rows import LineageRows
from .stored_values import (
    LARGEST_COUNT,
    LARGEST_WEIGHT,
    ascending,
    block,
    different,
    finite,
    finite_or_null,
    listed,
    numbers,
    text,
    texts,
    value_of,
    whole,
    wrong,
)

FILE = re.compile(r"\w[\w.-]*\.safetensors")  # beside the manifest
SHA256 = re.compile("[0-9a-f]{64}")


def round_values(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `rounds.Round` that stand in its manifest, but for `history`.

    Raises:
        ValueError: a field is missing, of another type, out of range, or does not fit the others; it is named.
    """
    clients = ascending(value_of(content, "clients"), "clients")
    if not clients:
        raise wrong("clients", [], "a list of at least one client")
    examples = numbers(value_of(content, "examples"), "examples", LARGEST_COUNT)
    weights = listed(value_of(content, "example_weights"), "example_weights")
    if not len(clients) == len(examples) == len(weights):
        raise ValueError("it does not give each client its examples and its weight")
    source = text(content.get("source", ""), "source")
    names = different(texts(content.get("names", []), "names"), "names")
    if (source or names) and len(names) != len(clients):
        raise ValueError("it does not name each client: names are as many as clients")
    key = content.get("key")
    products = content.get("products", False)
    if not isinstance(products, bool):
        raise wrong("products", products, "true or false")
    if products and source:
        raise wrong("products", products, "false in rounds that others trained")
    return {
        "number": whole(value_of(content, "number"), "number", 1),
        "clients": clients,
        "examples": examples,
        "example_weights": tuple(
            finite(weight, f"example_weights[{at}]", 0, LARGEST_WEIGHT) for at, weight in enumerate(weights)
        ),
        "buffers": frozenset(texts(value_of(content, "buffers"), "buffers")),
        "checksums": _checksums(value_of(content, "checksums")),
        "lineage_rows": _lineage_rows(content.get("lineage")),
        "key": None if key is None else text(key, "key"),
        "names": names,
        "source": source,
        "products": products,
        "buffered": _buffered(content.get("buffered"), len(clients)),
    }


def metrics_values(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The fields of the `rounds.Metrics` of a round and of those before it; NaN for numbers that nobody knows.

    Raises:
        ValueError: as `round_values`.
    """
    history = listed(value_of(content, "history"), "history")
    if not history:
        raise wrong("history", history, "a list of at least one round")
    return [_metrics(block(entry, f"history[{at}]"), f"history[{at}].") for at, entry in enumerate(history)]


def _metrics(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    def count(name: str, least: int) -> int:
        return whole(value_of(entry, name), where + name, least)

    def measured(name: str, **limits: float) -> float:
        return finite_or_null(value_of(entry, name), where + name, **limits)

    return {
        "round": count("round", 0),
        "loss": measured("loss", least=0),
        "accuracy": measured("accuracy", least=0, most=1),
        "train_loss": measured("train_loss"),
        "clients": count("clients", 0),
        "seconds": measured("seconds", least=0),
        "failed": numbers(entry.get("failed", []), f"{where}failed"),
    }


def _checksums(value: Any) -> dict[str, str]:
    checksums = block(value, "checksums")
    for name, checksum in checksums.items():
        if not FILE.fullmatch(name):
            raise wrong("a name in checksums", name, "that of a safetensors file of the round")
        if not SHA256.fullmatch(text(checksum, f"checksums.{name}")):
            raise wrong(f"checksums.{name}", checksum, "a SHA-256 of 64 characters")
    return checksums


def _buffered(value: Any, clients: int) -> Buffered | None:
    if value is None:
        return None
    fields = block(value, "buffered")
    staleness = numbers(value_of(fields, "staleness"), "buffered.staleness")
    weights = listed(value_of(fields, "weights"), "buffered.weights")
    if not len(staleness) == len(weights) == clients:
        raise ValueError("buffered does not give each client its staleness and its weight")
    equal = value_of(fields, "equal")
    if not isinstance(equal, bool):
        raise wrong("buffered.equal", equal, "true or false")
    return Buffered(
        staleness,
        tuple(finite(weight, f"buffered.weights[{at}]", 0, 1) for at, weight in enumerate(weights)),
        finite(value_of(fields, "rate"), "buffered.rate", 0, LARGEST_WEIGHT),
        equal,
    )


def _lineage_rows(value: Any) -> LineageRows | None:
    if value is None:
        return None
    rows = block(value, "lineage")
    lineage_rows = LineageRows(
        clients=ascending(value_of(rows, "clients"), "lineage.clients"),
        kinds=different(texts(value_of(rows, "kinds"), "lineage.kinds"), "lineage.kinds"),
        used=numbers(value_of(rows, "used"), "lineage.used"),
        last=numbers(value_of(rows, "last"), "lineage.last"),
        decay=finite(value_of(rows, "decay"), "lineage.decay", 0, 1),
        held=numbers(rows.get("held", []), "lineage.held"),
    )
    if len(lineage_rows.last) != len(lineage_rows.clients):
        raise ValueError("lineage.last does not give each of lineage.clients a round")
    if len(lineage_rows.held) not in (0, len(lineage_rows.clients)):
        raise ValueError("lineage.held does not give each of lineage.clients a round")
    return lineage_rows
