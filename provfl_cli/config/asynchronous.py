"""Settings of an asynchronous federation, a part of the block `federation`, and what they exclude."""

from dataclasses import dataclass
from typing import Annotated, Any

from ..checks import CLIENTS, RATE, ROUNDS, Range, one_of
from ..errors import InputError

MODES = ("sync", "fedbuff")
STALENESS = ("polynomial", "constant", "hinge")
SPEEDS = ("equal", "uniform", "half_normal", "lognormal")
# What a buffer decides by itself, with the values that ask for nothing.
SYNCHRONOUS: dict[str, tuple[Any, ...]] = {
    "sampling": ("uniform",),
    "dropout": (0,),
    "stragglers": (0,),
    "joins": (None, {}),
    "leaves": (None, {}),
}


@dataclass(frozen=True, kw_only=True)
class Asynchronous:
    """When the server fuses, and how it counts updates from older models. All but `mode` belong to `fedbuff`."""

    mode: str = "sync"
    concurrency: Annotated[int | None, CLIENTS] = None
    update_weights: str = "examples"
    staleness: str = "polynomial"
    staleness_strength: Annotated[float, Range(0, 1000)] = 0.5
    staleness_grace: Annotated[int, Range(0, 100_000)] = 4
    max_staleness: Annotated[int | None, Range(0, ROUNDS.most)] = None
    server_rate: Annotated[float, RATE] = 1.0
    speeds: str = "lognormal"
    speed_spread: Annotated[float, Range(0, 2)] = 0.5

    def check_mode(self, clients: int) -> None:
        """Raise InputError for a word that is none, and for what an asynchronous federation does not have."""
        one_of("federation.mode", self.mode, MODES)
        one_of("federation.update_weights", self.update_weights, ("examples", "equal"))
        one_of("federation.staleness", self.staleness, STALENESS)
        one_of("federation.speeds", self.speeds, SPEEDS)
        if self.mode == "sync":
            return
        if self.concurrency is not None and self.concurrency > clients:
            raise InputError(f"federation.concurrency={self.concurrency}: more than federation.clients={clients}")
        for key, plain in SYNCHRONOUS.items():
            value = getattr(self, key)
            if value not in plain:
                raise InputError(
                    f"federation.{key}={value}: under federation.mode=fedbuff the clients' speeds say who takes part "
                    f"when: leave federation.{key} out, or federation.mode=sync"
                )
