"""What a fusion needs: a mode, and so many clients; asked before a run starts, and again of those that returned."""

from __future__ import annotations

from ..errors import InputError, TrainingFailed
from .federation import Federation
from .fuse import Fusion


class TooFewReturned(TrainingFailed):
    """A round in which fewer clients returned than its fusion needs."""


def fusion_name(fusion: Fusion) -> str:
    """What a fusion is called after `fusion=`: the name of its module."""
    return type(fusion).__module__.rpartition(".")[2]


def clients_a_round(federation: Federation) -> int:
    """How many clients train in a round; partitioning may leave fewer."""
    return federation.clients_per_round or federation.clients


def check_attackers(fusion: str, attackers: int, factor: int, federation: Federation) -> None:
    """Raise InputError unless a round has at least `factor * attackers + 3` clients."""
    there, needed = clients_a_round(federation), factor * attackers + 3
    if there >= needed:
        return
    key = "clients" if federation.clients_per_round is None else "clients_per_round"
    fewer = f", or fusion.attackers={(there - 3) // factor} at most" if there >= 3 else ""
    raise InputError(
        f"fusion={fusion}: against fusion.attackers={attackers} it needs {factor} * {attackers} + 3 = {needed} clients "
        f"a round, there are {there}: federation.{key}={needed} or more{fewer}"
    )


def require_returned(fusion: str, returned: int, needed: int, why: str) -> None:
    """Raise TooFewReturned where fewer than `needed` clients returned."""
    if returned < needed:
        raise TooFewReturned(
            f"fusion={fusion}: {returned} clients returned in this round, it needs {needed} ({why}): "
            "more clients a round, fewer dropouts, or another fusion"
        )


def check_mode(fusion: Fusion, federation: Federation) -> None:
    """Raise InputError for a fusion that cannot serve the federation's mode.

    A buffer holds updates from models that differ. A weighted mean of them is what FedBuff defines; a fusion that
    compares clients (median, Krum) would compare how stale they are, and control variates belong to one model.
    """
    if federation.mode == "fedbuff" and not fusion.averages:
        raise InputError(
            f"fusion={fusion_name(fusion)}: federation.mode=fedbuff takes weighted means of updates: fusion=fedavg, "
            "fedprox, fednova, norm_clipping, fedavgm, fedadagrad, fedadam or fedyogi, or federation.mode=sync"
        )
