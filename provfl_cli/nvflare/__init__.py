"""Provenance for anybody's NVFlare job: let it record, and every round of its training is kept for `provfl trace`.

    from provfl_cli.nvflare import record

    record(recipe, "provenance")
    recipe.execute(SimEnv(num_clients=3))

Then `provfl trace .../provenance --model module:callable --data module:callable` ranks the clients behind a prediction.
"""

try:
    import nvflare as _nvflare  # noqa: F401
except ImportError:
    raise ImportError(
        "provfl_cli.nvflare needs the package nvflare: pip install 'provfl[nvflare]' "
        "(scripts/provfl: PROVFL_EXTRAS=nvflare)"
    ) from None

from .job import record
from .recorder import ProvenanceRecorder

__all__ = ["ProvenanceRecorder", "record"]
