"""Whether adapters of PEFT are of one kind: the same numbers in them mean another model where their scale differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ...checks import excerpt
from ...errors import InputError

DECISIVE = (  # settings of `adapter_config.json` that say what the tensors mean, beside their names and shapes
    "peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out",
)  # fmt: skip


def require_same_adapters(configs: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Raise InputError where two of a round's adapters, as the user called them, differ in what they mean."""
    known = [(what, config) for what, config in configs if config]
    for what, config in known[1:]:
        first, expected = known[0]
        for key in DECISIVE:
            if config.get(key) != expected.get(key):
                raise InputError(
                    f"{what}: its adapter has {key}={excerpt(config.get(key))}, that of {first} "
                    f"{excerpt(expected.get(key))}: adapters are averaged where their settings are the same"
                )


def require_adapter_of(model: nn.Module, spec: str, configs: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Raise InputError where the adapter of a model, called `spec`, is set otherwise than those of the round."""
    known = [(what, config) for what, config in configs if config]
    adapters = getattr(model, "peft_config", None)
    if not known or not isinstance(adapters, Mapping) or len(adapters) != 1:
        return
    what, config = known[0]
    (own,) = adapters.values()
    for key in DECISIVE:
        value = getattr(own, key, None)
        value = getattr(value, "value", value)  # of an enumeration
        if key in config and value != config[key]:
            raise InputError(
                f"--model {spec}: its adapter has {key}={excerpt(value)}, that of {what} {excerpt(config[key])}"
            )
