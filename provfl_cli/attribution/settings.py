"""Settings that the counterfactual methods share, and which fusions can be run again with fewer clients."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..fusion.conditions import clients_a_round
from ..fusion.trimmed_mean import TrimmedMean

if TYPE_CHECKING:
    from ..config.schema import Config
    from .method import Case

KINDS = ("withhold", "refuse")
VALUES = ("log_probability", "target")


def method_name(method: str, counterfactual: str) -> str:
    """What a method is called in tables: its own name where it refuses clients, which is the default."""
    return method if counterfactual == "refuse" else f"{method}_{counterfactual}"


def explained(case: Case, value: str) -> str:
    """The scalar of the prediction that is measured: a target of tracing, or `log_probability`."""
    return case.provenance.target if value == "target" else value


def kept_counts(fusion: Any, clients: int) -> Any:
    """The fusion with what it makes of the number of clients in a round fixed: how many a trimmed mean cuts off."""
    return replace(fusion, count=fusion.cut(clients)) if isinstance(fusion, TrimmedMean) else fusion


def check_fewer(method: str, config: Config, left: int) -> None:
    """Raise InputError where the fusion refuses to fuse a round of which only `left` clients are left."""
    there = clients_a_round(config.federation)
    if not 1 <= left < there:
        return
    try:
        kept_counts(config.fusion, there).check(replace(config.federation, clients_per_round=left))
    except InputError as error:
        name = type(config.fusion).__module__.rpartition(".")[2]
        raise InputError(
            f"attribution={method}: fusion={name} does not work with {left} of the {there} clients of a round: "
            f"attribution.{method}.counterfactual=withhold, or another fusion such as fusion=fedavg"
        ) from error
