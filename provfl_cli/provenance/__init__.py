"""Neuron provenance: which clients pushed a prediction (design section 2).

`trace` works on any `nn.Module`, inputs, and a round: one that was stored, or `from_state_dicts`.
"""

from .given import from_state_dicts
from .stack import FusedRound
from .tracing import Contributions, trace, trace_targets

__all__ = ["Contributions", "FusedRound", "from_state_dicts", "trace", "trace_targets"]
