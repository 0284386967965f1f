"""What a federation's rounds take on disk, all in all and for each client."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .cache import disk_usage
from .rounds import CLIENTS, LINEAGE, read_round, round_folder, stored_rounds


@dataclass(frozen=True)
class Cost:
    """Bytes on disk.

    Attributes:
        rounds: how many are there.
        size: of all of them together; a file with several names counts once.
        client: what one client's model takes in the last of them.
        lineage: of the last of them, what clients have sent over all rounds; 0 where it has none.
    """

    rounds: int
    size: int
    client: float
    lineage: int

    def __str__(self) -> str:
        parts = [f"{self.rounds} round{'s' * (self.rounds != 1)}, {_megabytes(self.size)}"]
        parts.append(f"{_megabytes(self.client)} a client and round")
        if self.lineage:
            parts.append(f"{_megabytes(self.lineage)} of lineage a round")
        return "; ".join(parts)


def cost_of(rounds: Path) -> Cost | None:
    """What the rounds in a folder take; None where there are none.

        >>> cost_of(Path("run/rounds"))
        Cost(rounds=1, size=5712, client=664.0, lineage=0)

    Raises:
        RunError: the folder, or its last round, cannot be read.
    """
    numbers = stored_rounds(rounds)
    if not numbers:
        return None
    last = round_folder(rounds, numbers[-1])
    clients = len(read_round(rounds, numbers[-1]).clients)
    return Cost(
        rounds=len(numbers),
        size=disk_usage(rounds),
        client=(last / CLIENTS).stat().st_size / clients,
        lineage=(last / LINEAGE).stat().st_size if (last / LINEAGE).exists() else 0,
    )


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e6:.2g} MB"
