"""JSON files that state the checksum of their own content.

It guards against damage and against files that were mixed up, not against somebody who means to deceive: whoever
changes a file can compute its checksum as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "sha256"


class Damaged(ValueError):
    """The content of a file is not what was written."""


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` as JSON reads it back, with the checksum of it all under `sha256`."""
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return {**plain, SEAL: _digest(plain)}


def check_seal(content: Mapping[str, Any], since: int) -> None:
    """Compare the content of a file, as JSON reads it, with its checksum.

    Args:
        content: with `format`, the number of the file's format; 1 where there is none.
        since: the first format whose files have a checksum: older ones may lack it.

    Raises:
        Damaged: the checksum differs, or is missing.
    """
    if SEAL in content:
        if content[SEAL] != _digest({name: value for name, value in content.items() if name != SEAL}):
            raise Damaged("it is damaged: its checksum differs from the one written with it")
        return
    number = content.get("format", 1)
    if not isinstance(number, int) or number >= since:
        raise Damaged("it is damaged: its checksum is missing")


def _digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content, whatever the order of its names and its line breaks."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
