"""Shapley values of a round's clients, exact or by sampled permutations (design section 2).

The value of a coalition is what the model without all other clients makes of the prediction; that of the empty one is
the previous model's: `W_prev` itself under `refuse`, `W_prev + U` under `withhold` (`U`: momentum and noise, which no
client of the round sent). Shapley 1953; for data, Ghorbani & Zou 2019, "Data Shapley".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING, Annotated

from ..checks import Range, in_range, one_of
from ..config.parts import RunSettings
from ..imports import later
from ..seeds import derived_seed
from .counterfactual import outcomes
from .method import AttributionResult, Case, used_clients
from .settings import KINDS, VALUES, check_fewer, explained, method_name

if TYPE_CHECKING:
    import numpy as np
else:
    np = later("numpy")

MOST_EXACT = 16  # clients: 65,536 models, and as many values of each input in memory


@dataclass(frozen=True)
class Shapley:
    """The mean of what a client adds to those before it, over all orders in which clients may come.

    The values of all clients add up to `v(all) - v(nobody)`, exact ones to rounding and sampled ones by construction.

    Attributes:
        counterfactual: `refuse` or `withhold`, see `counterfactual.py`.
        value: `v`: `log_probability` of the class explained, or the `target` that the run's provenance explains.
        exact_up_to: with so many clients all `2^clients` coalitions are evaluated.
        permutations: orders that are drawn where there are more clients.
        tolerance: in units of the value. The rest of an order is not evaluated once the model is that near to the whole
            one, for every input.
    """

    counterfactual: str = "refuse"
    value: str = "log_probability"
    exact_up_to: Annotated[int, Range(0, MOST_EXACT)] = 8
    permutations: Annotated[int, Range(2, 1_000_000)] = 50
    tolerance: Annotated[float, Range(0, 1e6)] = 0.01

    def __post_init__(self) -> None:
        one_of("attribution.shapley.counterfactual", self.counterfactual, KINDS)
        one_of("attribution.shapley.value", self.value, VALUES)
        in_range("attribution.shapley", self)

    @property
    def name(self) -> str:
        """`shapley`, or `shapley_withhold`."""
        return method_name("shapley", self.counterfactual)

    def check(self, run: RunSettings) -> None:
        """Refuse a fusion that does not work with a single client: its coalitions have no value."""
        if self.counterfactual == "refuse":
            check_fewer("shapley", run.fusion, run.federation, 1)

    def attribute(self, case: Case) -> AttributionResult:
        """Values and, where they are sampled, standard errors; all missing (no candidates) where a coalition's is."""
        began = time.perf_counter()
        everybody, candidates = frozenset(range(len(case.stored.clients))), used_clients(case)
        # Whose A_k is 0 changes nothing when withheld, but may when refused: as a neighbour of others, for instance.
        players = sorted(everybody) if self.counterfactual == "refuse" else np.flatnonzero(candidates).tolist()
        pending: list[frozenset[int]] = []
        known: dict[frozenset[int], np.ndarray] = {}
        stream = outcomes(case, self.counterfactual, iter(pending.pop, None), self.value)

        def worth(coalition: frozenset[int]) -> np.ndarray:
            if coalition not in known:
                pending.append(everybody - coalition)  # the stream asks for it, and for no more
                known[coalition] = next(stream).values
            return known[coalition]

        errors: np.ndarray | None
        if len(players) <= self.exact_up_to:
            values, errors, note = exact(players, worth), None, ""
        else:
            draw = np.random.default_rng(derived_seed(case.seed, "shapley", case.stored.number)).permutation
            orders = (draw(players).tolist() for _ in range(self.permutations))
            values, errors = sampled(players, orders, worth, self.tolerance)
            note = (
                f"{self.name}: from {self.permutations} permutations, {len(known)} coalitions; "
                f"standard error {errors.mean():.2g} on average"
            )
        missing = bool(np.isnan(values).any())
        if missing:
            note = f"{self.name}: the fusion needs more clients than some coalitions have, so nobody has a value"
        seconds, shape = time.perf_counter() - began, (len(case.classes), len(everybody))
        return AttributionResult(
            _placed(values, players, shape),
            candidates & (not missing),
            seconds,
            None if errors is None else _placed(errors, players, shape),
            note,
            explained(case, self.value),
        )


def exact(players: Sequence[int], worth: Callable[[frozenset[int]], np.ndarray]) -> np.ndarray:
    """`phi_k = sum_S |S|! (n - |S| - 1)! / n! (v(S + k) - v(S))` over all coalitions S without k.

    Args:
        players: the `n` clients.
        worth: `v` of a coalition, float64 `[inputs]`.

    Returns:
        float64 `[inputs, n]`.
    """
    n = len(players)
    values = np.stack(
        [worth(frozenset(player for at, player in enumerate(players) if mask >> at & 1)) for mask in range(2**n)]
    )
    sizes = np.array([mask.bit_count() for mask in range(2**n)])
    shares = np.array([1 / (n * comb(n - 1, size)) for size in range(n)])
    phi = np.zeros((values.shape[1], n))
    for at in range(n):
        without = np.flatnonzero(~(np.arange(2**n) >> at) & 1)
        phi[:, at] = shares[sizes[without]] @ (values[without | 1 << at] - values[without])
    return phi


def sampled(
    players: Sequence[int],
    orders: Iterable[Sequence[int]],
    worth: Callable[[frozenset[int]], np.ndarray],
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Shapley values from orders drawn at random, and their standard errors, both float64 `[inputs, n]`.

    Truncated Monte Carlo (Ghorbani & Zou 2019, algorithm 1): each client is worth the mean of what it adds to those
    before it, and an order is left once they are worth as much as all, within `tolerance`. Two things differ: with a
    value for each input, all inputs must be that near; and what is missing to the whole, which the algorithm drops, is
    shared equally by the clients that did not get their turn, so that the values of each order add up to the whole.

    Args:
        players: the `n` clients.
        orders: two permutations of them or more.
        worth: `v` of a coalition, float64 `[inputs]`.
        tolerance: largest difference at which an order is left.
    """
    column = {player: at for at, player in enumerate(players)}
    whole, nothing = worth(frozenset(players)), worth(frozenset())
    mean = np.zeros((len(whole), len(players)))
    squares = np.zeros_like(mean)  # of deviations from the mean (Welford 1962)
    drawn = 0
    for order in orders:
        added = np.empty_like(mean)
        before = nothing
        for position, player in enumerate(order):
            if np.abs(whole - before).max(initial=0.0) <= tolerance:
                late = order[position:]
                added[:, [column[client] for client in late]] = ((whole - before) / len(late))[:, None]
                break
            after = worth(frozenset(order[: position + 1]))
            added[:, column[player]] = after - before
            before = after
        drawn += 1
        step = added - mean
        mean += step / drawn
        squares += step * (added - mean)
    return mean, np.sqrt(squares / (drawn - 1) / drawn)


def _placed(values: np.ndarray, players: Sequence[int], shape: tuple[int, int]) -> np.ndarray:
    """Columns of the players among those of all clients; the others have 0."""
    placed = np.zeros(shape)
    placed[:, list(players)] = values
    return placed
