"""What happens during training, as it happens: small facts for a progress display and for the run's manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..store.rounds import Metrics


@dataclass(frozen=True)
class RoundsPlaced:
    """The rounds are, or will be, in the folder `rounds` of the training cache."""

    rounds: Path


@dataclass(frozen=True)
class RoundsReused:
    """Rounds 1 to `rounds` need no training: they are in the cache, where they once took `seconds`."""

    rounds: int
    seconds: float
    history: tuple[Metrics, ...]


@dataclass(frozen=True)
class RoundMissing:
    """Wanted round `number` was not kept: it is trained again from stored round `start` (0: from the beginning)."""

    number: int
    start: int


@dataclass(frozen=True)
class WaitingForProcess:
    """Another process trains the same federation in `folder`; its rounds are used when they are there."""

    folder: Path


@dataclass(frozen=True)
class RoundStarted:
    """Round `number` of `rounds` trains these clients."""

    number: int
    rounds: int
    clients: tuple[int, ...]


@dataclass(frozen=True)
class ClientFinished:
    """A client has returned its model; `loss` is its mean training loss over its last pass."""

    round: int
    client: int
    examples: int
    loss: float


@dataclass(frozen=True)
class ClientFailed:
    """A client has returned nothing, for a `reason` in one line; `again`: it is asked once more in this round."""

    round: int
    client: int
    reason: str
    again: bool


@dataclass(frozen=True)
class EngineStarting:
    """An engine takes seconds to start; `told` says in one line what is started, `log` is where it writes."""

    told: str
    log: Path


@dataclass(frozen=True)
class RoundFinished:
    """A round is trained, fused, evaluated and on disk."""

    number: int
    rounds: int
    metrics: Metrics


@dataclass(frozen=True)
class TrainingEnded:
    """All is on disk: `rounds` were trained by this call in `seconds`; the others came from the cache."""

    rounds: int
    seconds: float
    cached_seconds: float


Event = (
    RoundsPlaced
    | RoundsReused
    | RoundMissing
    | WaitingForProcess
    | EngineStarting
    | RoundStarted
    | ClientFinished
    | ClientFailed
    | RoundFinished
    | TrainingEnded
)
