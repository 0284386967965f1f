"""Whether stored rounds are those that a folder's results were made with."""

from __future__ import annotations

import math
from pathlib import Path

from ..errors import RunError
from ..results.documents import read_metrics
from ..store.rounds import Round

APART = 1e-5  # relative: what the loss of the same round differs by where another machine has trained it again


def check_belongs(folder: Path, stored: Round, key: str | None) -> None:
    """Raise RunError unless a round is of the federation whose results a run folder holds.

    Args:
        folder: of the run.
        stored: a round that its link `rounds` leads to.
        key: of the federation, from the manifest. Where it is None, as in folders of a time before keys, the losses of
            the rounds are compared with those that the run noted.
    """
    if key is None:
        same = _same_losses(stored, folder / "metrics.jsonl")
    elif stored.key is not None:
        same = stored.key == key
    else:  # a round of a time before keys is known by its place in the training cache
        same = stored.folder.resolve().parents[1].name == key or _same_losses(stored, folder / "metrics.jsonl")
    if not same:
        raise RunError(
            f"{folder / 'rounds'}: its models are not those of this run's results, but of federation "
            f"{stored.key or stored.folder.resolve().parents[1].name}: the same provfl run puts that right"
        )


def _same_losses(stored: Round, metrics: Path) -> bool:
    """Whether a round, and those before it, came to what the run noted of them."""
    try:
        noted = {int(row["round"]): row.get("loss") for row in read_metrics(metrics)}
    except (OSError, ValueError) as error:
        raise RunError(f"{metrics} cannot be read ({error})") from error
    both = [(past.loss, noted[past.round]) for past in stored.history if past.round in noted]  # longer runs may follow
    return bool(both) and all(
        math.isnan(loss) if other is None else math.isclose(loss, other, rel_tol=APART) for loss, other in both
    )
