"""Which sets of clients are trained again. Pure: numbers of clients in, sets of clients to keep out.

Each set is a tuple of client numbers, ascending; the clients that are not in it were never there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
WINDOW = 16  # halves among which the one is taken that evens out how often each client is in
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
    count = min(count, comb(len(clients), size))
    stream = _different_halves(len(clients), size, seed)
    window = [half for _, half in zip(range(WINDOW), stream, strict=False)]
    often = np.zeros(len(clients), dtype=np.int64)
    chosen = list[Subset]()
    while len(chosen) < count:
        # Those that bring the largest and the smallest counts together: the sum of squares grows least.
        best = min(range(len(window)), key=lambda position: int(often[list(window[position])].sum()))
        half = window.pop(best)
        often[list(half)] += 1
        chosen.append(tuple(clients[position] for position in half))
        window += [following for _, following in zip(range(1), stream, strict=False)]
    return chosen


def _different_halves(clients: int, size: int, seed: int) -> Iterator[tuple[int, ...]]:
    """Positions of random halves, no half twice, until there are no more."""
    random = np.random.default_rng(derived_seed(seed, "halves"))
    if comb(clients, size) <= MOST_LISTED:
        listed = list(combinations(range(clients), size))
        for position in random.permutation(len(listed)).tolist():
            yield listed[position]
        return
    seen = set[tuple[int, ...]]()
    while True:
        half = tuple(sorted(random.permutation(clients)[:size].tolist()))
        if half not in seen:
            seen.add(half)
            yield half


def removal(clients: Sequence[int], order: Sequence[int], top: int) -> list[Subset]:
    """The clients without the first of `order`, without its first two, … up to `top`; somebody is always left."""
    return [
        tuple(client for client in clients if client not in order[:gone])
        for gone in range(1, min(top, len(clients) - 1) + 1)
    ]


def orders_of_removal(
    clients: Sequence[int], ranked: Mapping[str, Sequence[int]], examples: Mapping[int, int], seed: int
) -> dict[str, list[int]]:
    """In which order clients go: each method's, the largest first, and some random orders.

    Args:
        clients: their numbers.
        ranked: by method, clients that it ranked, the best first; the others go last.
        examples: training examples of each client.
        seed: of the random orders.
    """
    orders = {name: [*best, *(client for client in clients if client not in best)] for name, best in ranked.items()}
    orders[LARGEST] = sorted(clients, key=lambda client: (-examples[client], client))
    for draw in range(1, DRAWS + 1):
        random = np.random.default_rng(derived_seed(seed, "removal", draw))
        orders[f"{RANDOM} {draw}"] = [clients[position] for position in random.permutation(len(clients)).tolist()]
    return orders
