"""What has to go together where a model has adapters, or a fusion or the settings of a federation need them."""

from __future__ import annotations

from ..errors import InputError
from ..fusion.conditions import fusion_name
from ..fusion.fuse import Fusion
from ..fusion.privacy import Privacy
from ..provenance.settings import Provenance
from .blocks import Federation, Model
from .lora import Lora

SUMMED = (None, "adapters")  # of `federation.share`, where products of adapters are summed; or a list


def check_adapters(
    model: Model, lora: Lora, federation: Federation, fusion: Fusion, privacy: Privacy, provenance: Provenance
) -> None:
    """Raise InputError for what needs adapters where there are none, and for what a fusion cannot do with them."""
    sums = fusion.sums_products
    if model.adapter is None and (lora.freeze_a or federation.share == "adapters" or sums):
        frozen = "lora.freeze_a=true (fusion=ffa_lora)" if lora.freeze_a else "federation.share=adapters"
        raise InputError(f"{f'fusion={fusion_name(fusion)}' if sums else frozen}: needs adapters: model.adapter=lora")
    if getattr(fusion, "freezes_a", False) and not lora.freeze_a:
        raise InputError("lora.freeze_a=false: fusion=ffa_lora is for adapters whose A is frozen: or fusion=fedavg")
    if sums:
        _check_sums(lora, federation, f"fusion={fusion_name(fusion)}", privacy, provenance)


def _check_sums(lora: Lora, federation: Federation, named: str, privacy: Privacy, provenance: Provenance) -> None:
    """Raise InputError for what a fusion that sums products of adapters, `named`, cannot go together with."""
    if lora.freeze_a:
        raise InputError(f"lora.freeze_a=true: {named} sums products of both factors: lora.freeze_a=false")
    if lora.dora:
        raise InputError(
            f"lora.dora=true: a layer then divides by a norm of base and product, which is no sum over clients as "
            f"{named} makes it: lora.dora=false"
        )
    if federation.share not in SUMMED and not isinstance(federation.share, list | tuple):
        raise InputError(f"federation.share={federation.share}: {named} is for shared adapters: federation.share=null")
    if privacy.private:
        raise InputError(
            f"privacy: {named} multiplies what clients send, so that neither clipping A and B nor noise on them bounds "
            "what a client does to the model: privacy=none, or fusion=ffa_lora"
        )
    if provenance.scope == "lineage":
        raise InputError(
            f"provenance.scope=lineage: {named} keeps the sum of all rounds' products, not whose they are: "
            "provenance.scope=round"
        )
