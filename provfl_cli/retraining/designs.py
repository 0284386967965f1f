"""Which sets of clients are trained again. Pure: numbers of clients in, sets of clients to keep out.

Each set is a tuple of client numbers, ascending; the clients that are not in it were never there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from ..errors import InputError
from ..seeds import derived_seed

FULL, LEAVE_ONE_OUT, HALVES, ALL, REMOVAL = "full", "leave_one_out", "halves", "all", "removal"
CLEAN_TWIN = "clean_twin"
RANDOM, LARGEST = "random", "largest"
MOST_FOR_ALL = 10  # clients whose every subset is trained: 1,024 federations
MOST_LISTED = 4096  # halves that are listed, to draw from what is left; of more, one is hardly ever drawn twice
WINDOW = 16  # halves drawn at a time, of which the one is taken that evens out how often each client is in
DRAWS = 3  # random orders of removal: a single one says little

Subset = tuple[int, ...]


@dataclass(frozen=True)
class Retraining:
    """One federation to train again: for which design, with which clients, from which training seed.

    `removes`: of `removal`, whose first clients are gone: a method's, `largest`, or `random 1`, `random 2`, …; "".
    """

    design: str
    clients: Subset
    seed: int
    removes: str = ""


def leave_one_out(clients: Sequence[int]) -> list[Subset]:
    """All but one client, each in turn."""
    return [tuple(client for client in clients if client != gone) for gone in clients]


def every_subset(clients: Sequence[int]) -> list[Subset]:
    """Every subset, the empty one first and the whole last.

    Raises:
        InputError: there are too many clients.
    """
    if len(clients) > MOST_FOR_ALL:
        raise InputError(
            f"retrain.designs: all of {len(clients)} clients are {2 ** len(clients):,} federations to train, at most "
            f"{MOST_FOR_ALL} clients ({2**MOST_FOR_ALL:,}) can be asked for: retrain.designs=[halves] draws some"
        )
    return [subset for size in range(len(clients) + 1) for subset in combinations(clients, size)]


def halves(clients: Sequence[int], count: int, seed: int) -> list[Subset]:
    """`count` different random halves, the smaller ones of an odd number; all there are where these are fewer.

    Each client is in about as many of them. The first ones are the same however many are asked for.

    Raises:
        InputError: there is one client alone.
    """
    if len(clients) < 2:
        raise InputError("retrain.designs: halves need 2 clients or more, one is left: federation.clients=2 or more")
    size = len(clients) // 2
    random = np.random.default_rng(derived_seed(seed, "halves"))
    listed = list(combinations(range(len(clients)), size)) if comb(len(clients), size) <= MOST_LISTED else None
    often = np.zeros(len(clients), dtype=np.int64)
    chosen = list[tuple[int, ...]]()
    while len(chosen) < min(count, comb(len(clients), size)):
        new = [half for half in _drawn(len(clients), size, listed, random) if half not in chosen]
        if not new:
            continue
        # Of those who were in the fewest so far: the counts come together.
        best = min(new, key=lambda half: int(often[list(half)].sum()))
        often[list(best)] += 1
        chosen.append(best)
        if listed is not None:
            listed.remove(best)
    return [tuple(clients[position] for position in half) for half in chosen]


def _drawn(
    clients: int, size: int, listed: Sequence[tuple[int, ...]] | None, random: np.random.Generator
) -> list[tuple[int, ...]]:
    """Positions of some random halves, of those `listed` where these can be."""
    if listed is not None:
        return [listed[position] for position in random.permutation(len(listed))[:WINDOW].tolist()]
    return [tuple(sorted(random.permutation(clients)[:size].tolist())) for _ in range(WINDOW)]


def removal(clients: Sequence[int], order: Sequence[int], top: int) -> list[Subset]:
    """The clients without the first of `order`, without its first two, … up to `top`; somebody is always left."""
    return [
        tuple(client for client in clients if client not in order[:gone])
        for gone in range(1, min(top, len(clients) - 1) + 1)
    ]


def orders_of_removal(clients: Sequence[int], examples: Mapping[int, int], seed: int) -> dict[str, list[int]]:
    """In which order clients go whatever any method says: the largest first, and some random orders; by name.

    Args:
        clients: their numbers.
        examples: training examples of each client.
        seed: of the random orders.
    """
    orders = {LARGEST: sorted(clients, key=lambda client: (-examples[client], client))}
    for draw in range(1, DRAWS + 1):
        random = np.random.default_rng(derived_seed(seed, "removal", draw))
        orders[f"{RANDOM} {draw}"] = [clients[position] for position in random.permutation(len(clients)).tolist()]
    return orders
