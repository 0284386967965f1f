"""What a setting may be. Each check raises InputError: one line with the key, its value and what is accepted."""

from importlib.util import find_spec

from ..errors import InputError, did_you_mean


def one_of(key: str, value: str, accepted: tuple[str, ...]) -> None:
    """Raise InputError unless `value` is one of the `accepted` words."""
    if value not in accepted:
        raise InputError(f"{key}={value}: {did_you_mean(str(value), accepted)}")


def at_least(key: str, value: float | None, least: float) -> None:
    """Raise InputError when `value` is a number below `least` (null passes)."""
    if value is not None and not value >= least:
        raise InputError(f"{key}={value}: must be {least} or more")


def above(key: str, value: float, bound: float) -> None:
    """Raise InputError unless `value` is a finite number greater than `bound`."""
    if not bound < value < float("inf"):
        raise InputError(f"{key}={value}: must be a finite number above {bound}")


def between(key: str, value: float, low: float, high: float) -> None:
    """Raise InputError unless `low <= value <= high`."""
    if not low <= value <= high:
        raise InputError(f"{key}={value}: must lie between {low} and {high}")


def require_flower() -> None:
    """Raise InputError where Flower or the Ray of its simulation is not installed; imports neither."""
    if find_spec("flwr") is None or find_spec("ray") is None:
        raise InputError(
            "engine=flower needs the package flwr with its simulation: pip install 'provfl[flower]' "
            "(scripts/provfl: PROVFL_EXTRAS=flower), or engine=local"
        )


def require_ray() -> None:
    """Raise InputError where Ray, which the shards of a trace are to work on, is not installed; does not import it."""
    if find_spec("ray") is None:
        raise InputError(
            "provenance.shard_on: a Ray cluster needs the package ray: pip install 'provfl[flower]', or "
            "provenance.shard_on=null for processes of this machine"
        )
