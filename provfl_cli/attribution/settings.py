"""Settings that the counterfactual methods share, and which fusions can be run again with fewer clients."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..config.blocks import Federation
from ..config.parts import RunSettings
from ..errors import InputError
from ..fusion.conditions import clients_a_round, fusion_name
from ..fusion.fuse import Fusion
from ..imports import later
from .method import Case

if TYPE_CHECKING:
    from ..provenance import responses
else:
    responses = later("provfl_cli.provenance.responses")

KINDS = ("withhold", "refuse")
VALUES = ("log_probability", "target")


def method_name(method: str, counterfactual: str) -> str:
    """What a method is called in tables: its own name where it refuses clients, which is the default."""
    return method if counterfactual == "refuse" else f"{method}_{counterfactual}"


def explained(case: Case, value: str) -> str:
    """The scalar of the prediction that is measured: a target of tracing, or `log_probability`."""
    if isinstance(case.model, responses.ResponseScore):
        return case.model.kind if value == "target" else value
    return case.provenance.target if value == "target" or not case.tells_classes else value


def check_fewer(method: str, fusion: Fusion, federation: Federation, left: int) -> None:
    """Raise InputError where the fusion refuses to fuse a round of which only `left` clients are left."""
    there = clients_a_round(federation)
    if not 1 <= left < there:
        return
    try:
        fusion.fixed(there).check(replace(federation, clients_per_round=left))
    except InputError as error:
        raise InputError(
            f"attribution={method}: fusion={fusion_name(fusion)} does not work with {left} of the {there} "
            f"clients of a round: attribution.{method}.counterfactual=withhold, or another fusion such as fusion=fedavg"
        ) from error


def check_classes(method: str, run: RunSettings) -> None:
    """Raise InputError where responses are attributed: for what needs classes that are predicted."""
    if run.task == "generate":
        raise InputError(
            f"attribution={method}: looks at predictions of classes, and task=generate has responses: leave it out; "
            "protoken, leave_one_out, cosine, last_layer, data_size and random take them"
        )


def check_no_products(method: str, fusion: Fusion) -> None:
    """Raise InputError where products of adapters are summed: for what compares clients' tensors entry by entry."""
    if fusion.sums_products:
        raise InputError(
            f"attribution={method}: compares updates entry by entry, and under fusion={fusion_name(fusion)} what "
            "counts are products of what clients send: fusion=fedavg or fusion=ffa_lora, or another method"
        )
