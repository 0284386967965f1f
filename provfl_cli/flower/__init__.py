"""Provenance for anybody's Flower app: wrap its strategy in `ProvenanceStrategy`, and every round is recorded.

    from provfl_cli.flower import ProvenanceStrategy

    strategy = ProvenanceStrategy(FedAvg(), "provenance", names="partition-id")
    result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=3)

For Flower's old interface (`start_simulation`, `start_server`) it is `provfl_cli.flower.legacy.ProvenanceStrategy`.
Then `provfl trace provenance --model module:callable --data module:callable` ranks the clients behind a prediction.
"""

try:
    import flwr as _flwr  # noqa: F401
except ImportError:
    raise ImportError(
        "provfl_cli.flower needs the package flwr: pip install 'provfl[flower]' (scripts/provfl: PROVFL_EXTRAS=flower)"
    ) from None

from .strategy import ProvenanceStrategy

__all__ = ["ProvenanceStrategy"]
