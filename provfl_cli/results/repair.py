"""What came of repairing a model: each way with what was measured of it, as the terminal, pages and scripts take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..evaluation.repair import Quality

REFUSE, LINEAGE, FINETUNE, RETRAIN = WAYS = ("refuse", "lineage", "finetune", "retrain")
FILE = "repaired.safetensors"


@dataclass(frozen=True)
class Way:
    """One way to take clients out.

    Attributes:
        name: one of `WAYS`.
        does: what is computed, and what it leaves in the model, one sentence.
        quality: what was measured of the model; None where there is none.
        seconds: of making the model, training included whenever that was.
        missing: why there is no model; "": there is one.
    """

    name: str
    does: str = ""
    quality: Quality | None = None
    seconds: float = 0.0
    missing: str = ""


@dataclass(frozen=True)
class Repair:
    """A federation's global model without some clients.

    Attributes:
        clients: numbers of the clients taken out, by what each is called.
        rounds: the first round from which on they are taken out, and the last.
        before: what was measured of the model as it was.
        ways: those that were asked for, in the order of `WAYS`.
        best: the name of the best by what was measured; "": nothing was.
        rule: by which rule it is, in words.
        fault: what the column of the fault's success counts; "": no fault is known.
        notes: sentences for the user.
        trainable: whether it could be trained again: the clients' data are at hand.
    """

    clients: Mapping[str, int]
    rounds: tuple[int, int]
    before: Quality
    ways: tuple[Way, ...]
    best: str = ""
    rule: str = ""
    fault: str = ""
    notes: tuple[str, ...] = ()
    trainable: bool = False

    @property
    def retrained(self) -> Quality | None:
        """What was measured of the retrained model; None: nothing is compared with it."""
        return next((way.quality for way in self.ways if way.name == RETRAIN), None)

    def way(self, name: str) -> Way:
        """One of the ways."""
        return next(way for way in self.ways if way.name == name)


def as_json(repair: Repair) -> dict[str, Any]:
    """One object for scripts."""
    return {
        "without": [{"client": number, "name": name} for name, number in repair.clients.items()],
        "from_round": repair.rounds[0],
        "rounds": repair.rounds[1],
        "fault": repair.fault or None,
        "compared_with_retraining": repair.retrained is not None,
        "before": asdict(repair.before),
        "ways": [asdict(way) for way in repair.ways],
        "best": repair.best or None,
        "rule": repair.rule or None,
        "notes": list(repair.notes),
    }
