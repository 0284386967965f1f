"""The settings of retrained counterfactuals (`evaluation.counterfactual=retrain`)."""

from dataclasses import dataclass, field
from typing import Annotated

from ..checks import CLIENTS, Range, in_range, one_of
from ..errors import InputError

DESIGNS = ("leave_one_out", "halves", "all", "removal", "clean_twin")
USUAL = ("leave_one_out", "halves")  # where none is named
FEWEST_SUBSETS = 6  # of which a rank correlation, or a datamodel fitted to the others, says something
LINEAGE = ":lineage"  # behind a method's name: its ranking over all rounds


@dataclass(frozen=True)
class Retrain:
    """Which sets of clients the federation is trained again with.

    `designs`: see `retraining/designs.py`; []: the usual ones. `subsets` are of `halves`, of which the first `again`
    are trained a second time from another training seed. `top` and `methods` are of `removal`.
    """

    designs: list[str] = field(default_factory=list)
    subsets: Annotated[int, Range(1, 100_000)] = 60
    again: Annotated[int, Range(0, 100_000)] = 0
    top: Annotated[int, CLIENTS] = 3
    methods: list[str] = field(default_factory=lambda: ["provfl"])
    workers: Annotated[int | None, Range(1, 1024)] = None

    def __post_init__(self) -> None:
        in_range("retrain", self)
        for name in self.designs:
            one_of("retrain.designs", name, DESIGNS)
            if self.designs.count(name) > 1:
                raise InputError(f"retrain.designs: {name} is there twice: leave one out")
        if self.again > self.subsets:
            raise InputError(
                f"retrain.again={self.again}: more than there are, retrain.subsets={self.subsets}: at most that many"
            )
        if "halves" in self.chosen and self.subsets < FEWEST_SUBSETS:
            raise InputError(
                f"retrain.subsets={self.subsets}: too few halves for a score, {FEWEST_SUBSETS} or more are needed"
            )
        if 0 < self.again < FEWEST_SUBSETS:
            raise InputError(f"retrain.again={self.again}: too few for a score: 0, or {FEWEST_SUBSETS} or more")
        if self.again and self.designs and "halves" not in self.designs:
            raise InputError(
                f"retrain.again={self.again}: it is halves that are trained again: add halves to retrain.designs, or "
                "retrain.again=0"
            )

    @property
    def chosen(self) -> tuple[str, ...]:
        """The designs that are trained."""
        return tuple(self.designs) or USUAL
