"""Neuron provenance: which clients pushed a prediction (design section 2). It needs torch, and no configuration.

`trace` works on any `nn.Module`, inputs, and a round: one that was stored, `read_round`, or one in memory,
`from_state_dicts`. `Contributions` is what it gives; `preset` and `Provenance` are its settings.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..store.rounds import read_round
    from .contributions import Contributions
    from .outputs import Inputs
    from .response_score import ResponseScore
    from .responses import ResponseTrace, trace_responses
    from .settings import Provenance, preset
    from .stack import FusedRound, Source
    from .state_dicts import from_state_dicts
    from .tracing import Classes, trace, trace_targets

__all__ = [
    "Classes",
    "Contributions",
    "FusedRound",
    "Inputs",
    "Provenance",
    "ResponseScore",
    "ResponseTrace",
    "Source",
    "from_state_dicts",
    "preset",
    "read_round",
    "trace",
    "trace_responses",
    "trace_targets",
]

_MODULES = {
    "Classes": ".tracing",
    "Contributions": ".contributions",
    "FusedRound": ".stack",
    "Inputs": ".outputs",
    "Provenance": ".settings",
    "ResponseScore": ".response_score",
    "ResponseTrace": ".responses",
    "Source": ".stack",
    "from_state_dicts": ".state_dicts",
    "preset": ".settings",
    "read_round": "..store.rounds",
    "trace": ".tracing",
    "trace_responses": ".responses",
    "trace_targets": ".tracing",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: a configuration only needs the settings, without torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
