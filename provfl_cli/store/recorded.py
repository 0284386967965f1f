"""A recorded federation: rounds that something else than `provfl run` trained, in the format of stored rounds.

    FOLDER/rounds/0001/…     as `rounds.py` writes them
           recorded.json     where they come from, what the clients are called, how many examples each has

There is no configuration and no data: whoever traces such a round brings the model and the inputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..bounded import read_json
from ..errors import RunError
from .disk import replacing

FORMAT = 1
RECORDED = "recorded.json"


@dataclass(frozen=True)
class Recorded:
    """What there is to know of a recorded federation beside its rounds.

    Attributes:
        source: what made it, such as `import` or `flower`.
        clients: what each client is called, by the number that it has in the rounds.
        examples: training examples of each, by number: those of the latest round in which it took part.
        labels: the names of the classes, in the order of the model's outputs; (): not known.
        fusion: the option of `conf/fusion`, and settings of it as KEY=VALUE, by which a round can be fused again from
            its stored server state, to see what it would be without some clients; (): not known.
    """

    source: str
    clients: Mapping[int, str]
    examples: Mapping[int, int]
    labels: tuple[str, ...] = ()
    fusion: tuple[str, ...] = ()


def write_recorded(folder: Path, recorded: Recorded) -> None:
    """Write `recorded.json`, whole or not at all; the folder is made where it is missing.

    Raises:
        RunError: the folder cannot be written to.
    """
    content = {
        "format": FORMAT,
        "source": recorded.source,
        "clients": {str(number): name for number, name in sorted(recorded.clients.items())},
        "examples": {str(number): count for number, count in sorted(recorded.examples.items())},
        "labels": list(recorded.labels),
        "fusion": list(recorded.fusion),
    }
    with replacing(folder / RECORDED) as beside:
        beside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_recorded(folder: Path) -> Recorded | None:
    """What `write_recorded` wrote; None where the folder holds no recorded federation.

    Raises:
        RunError: the file is damaged.
    """
    path = folder / RECORDED
    try:
        text = read_json(path)
        if text["format"] != FORMAT:
            raise ValueError(f"format {text['format']} instead of {FORMAT}")
        return Recorded(
            source=str(text["source"]),
            clients={int(number): str(name) for number, name in text["clients"].items()},
            examples={int(number): int(count) for number, count in text["examples"].items()},
            labels=tuple(map(str, text["labels"])),
            fusion=tuple(map(str, text["fusion"])),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} cannot be read ({error}): record the federation again") from error


def is_recorded(folder: Path) -> bool:
    """Whether a folder is that of a recorded federation, not of a run."""
    return (folder / RECORDED).is_file()
