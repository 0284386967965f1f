"""What `manifest.json`, `summary.json` and `metrics.jsonl` of a run folder hold: checked where one is read.

Their checksums may fit and their content may not: somebody else may have written them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..bounded import read_json, read_json_lines
from ..checks import excerpt
from .columns import LARGEST, LARGEST_COUNT
from .wrong import WrongContent, shown

Check = Callable[[Any], bool]
Known = Mapping[str, tuple[Check, str]]  # by key: whether a value is read, and what is


def _is_whole(value: Any, most: int = LARGEST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | str) or _is_number(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list_of(check: Check, least: int = 0) -> Check:
    return lambda value: isinstance(value, list) and len(value) >= least and all(map(check, value))


def _by_client(value: Any) -> bool:
    """Whether it is an object of examples by the client's number."""
    return isinstance(value, dict) and all(
        key.isdecimal() and len(key) <= 10 and int(key) <= LARGEST and _is_whole(count, LARGEST_COUNT)
        for key, count in value.items()
    )


OBJECT = (_is_object, "an object")
NUMBER = (_or_null(_is_number), "a finite number or null")
COUNT = (_or_null(lambda value: _is_whole(value, LARGEST_COUNT)), "a whole number or null")
WORD = (_or_null(_is_text), "a text or null")
CLIENTS = (_list_of(_is_whole), "a list of clients' numbers")
EXAMPLES = (_by_client, "an object of examples by the client's number")
TEXTS = (_list_of(_is_text), "a list of texts")
MANIFEST: Mapping[str, Known] = {
    "": {"key": WORD, "trace": (_or_null(_is_object), "an object or null")}
    | dict.fromkeys(("dataset", "inputs", "model", "clients", "seconds", "host", "versions"), OBJECT),
    "dataset": {
        "labels": (_list_of(lambda value: _is_text(value) or _is_number(value), 1), "a list of names"),
        "lines": TEXTS,
        "indexed": (_or_null(lambda value: isinstance(value, bool)), "true, false or null"),
        "train_examples": COUNT,
        "test_examples": COUNT,
        **dict.fromkeys(("name", "location", "note", "fingerprint"), WORD),
    },
    "clients": {"kept": EXAMPLES, "dropped": EXAMPLES, "faulty": CLIENTS},
    "trace": {"covered": NUMBER, "warnings": TEXTS},
}
METRICS: Known = {
    "round": (_is_whole, "a whole number"),
    "accuracy": (_is_number, "a finite number"),
    "clients": COUNT,
    "failed": CLIENTS,
    **dict.fromkeys(("loss", "train_loss", "perplexity", "seconds"), NUMBER),
}
ROUND: Known = {"round": METRICS["round"], "method": (_is_text, "a text"), "covered": NUMBER, "epsilon": NUMBER}


def check_manifest(content: Mapping[str, Any]) -> None:
    """Raise WrongContent where what a manifest says is nothing that a run writes; keys may be missing."""
    for block, known in MANIFEST.items():
        _check(content.get(block) or {} if block else content, known, f"{block}." if block else "")
    seconds = content.get("seconds", {})
    _check(seconds, dict.fromkeys(seconds, NUMBER), "seconds.")


def read_figures(path: Path) -> dict[str, Any]:
    """`summary.json`, checked: texts, numbers and nulls by name.

    Raises:
        WrongContent: it holds something else.
        OSError, ValueError: it cannot be read.
    """
    figures = read_json(path)
    _check(figures, dict.fromkeys(figures, (_is_scalar, "a text, a finite number or null")) | dict(ROUND), "")
    return figures


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """`metrics.jsonl`, checked: an object for each round, with at least its `round` and `accuracy`.

    Raises:
        WrongContent: it holds something else.
        OSError, ValueError: it cannot be read.
    """
    rows = read_json_lines(path)
    for number, row in enumerate(rows, 1):
        where = f"line {number}: "
        for name in ("round", "accuracy"):
            if name not in row:
                raise WrongContent(f"{where}{name} is missing")
        _check(row, METRICS, where)
    return rows


def _check(content: Mapping[str, Any], known: Known, where: str) -> None:
    for name, (fits, accepted) in known.items():
        if name in content and not fits(content[name]):
            raise WrongContent(f"{where}{excerpt(name)} is {shown(content[name])}: {accepted} is read")
