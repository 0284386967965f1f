"""Neuron provenance: which clients pushed a prediction (design section 2).

`trace` works on any `nn.Module`, inputs, and a round: one that was stored, or `from_state_dicts`.
"""

from .contributions import Contributions
from .stack import FusedRound
from .state_dicts import from_state_dicts
from .tracing import trace, trace_targets

__all__ = ["Contributions", "FusedRound", "from_state_dicts", "trace", "trace_targets"]
