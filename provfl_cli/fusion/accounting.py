"""Epsilon of what a federation did: the Gaussian mechanism composed over rounds, and amplified where clients are drawn.

The unit of privacy is a client with all its data. Delta is the probability with which the promise fails altogether, so
it has to be far below one over what could be given away: over the clients (McMahan et al. 2018, "Learning
Differentially Private Recurrent Language Models"), and where these are few over their examples (Dwork and Roth 2014,
section 2.3), since one in five would be no promise to five clients. The default is below both.

Neighbouring federations differ in one client, whose part of every noised sum is replaced by zeros (zero-out
neighbours, Kairouz et al. 2021, "Practical and Private (Deep) Learning Without Sampling or Shuffling", definition 1.1).
Who took part when, how many examples a client has and how many steps it made are taken as public.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import isinf

from ..errors import InputError
from .federation import Federation
from .fuse import Fusion

MEANINGLESS = 100.0  # an epsilon above it bounds nothing that anybody cares about
DELTA_EXPONENT = 1.1
LARGEST_DELTA = 0.01  # a promise that fails more often is none, however few the clients are


@dataclass(frozen=True)
class Ledger:
    """What was done with the clients' data.

    Attributes:
        rounds: rounds fused.
        clients: clients that could take part.
        per_round: clients chosen in a round.
        sampling: how they were chosen, `federation.sampling`.
        participations: for each client, how many of its updates were fused.
        fusion: how they were fused.
        examples: training examples of all clients together; 0: nobody counted them.
        regular: whether every round fused exactly the clients chosen for it from all: nobody dropped out, was late,
            joined or left, and none waited for a buffer.
    """

    rounds: int
    clients: int
    per_round: int
    sampling: str
    participations: Sequence[int]
    fusion: Fusion
    regular: bool = True
    examples: int = 0


@dataclass(frozen=True)
class PrivacySpent:
    """What a federation gave away about any one client.

    Attributes:
        epsilon: None where no bound is known, infinite without noise.
        delta: at which epsilon holds.
        mechanism: in words: what was noised, how often, and between which neighbours it holds.
        meaningful: whether it promises anything: epsilon is at most 100, delta below one over the clients and 0.01.
        clients, examples: how many there were, of all clients together; 0: nobody counted them.
    """

    epsilon: float | None
    delta: float
    mechanism: str
    meaningful: bool
    clients: int = 0
    examples: int = 0


def ledger_of(
    federation: Federation, fusion: Fusion, clients: int, fused: Sequence[Iterable[int]], examples: int = 0
) -> Ledger:
    """What was done in the rounds of a federation of so many clients, with so many training examples.

    `fused`: for each round the positions (0 to `clients - 1`) of the clients whose work it fused, late work included.
    """
    counts = Counter(position for round in fused for position in round)
    return Ledger(
        rounds=len(fused),
        clients=clients,
        per_round=min(federation.clients_per_round or clients, clients),
        sampling=federation.sampling,
        participations=[counts[position] for position in range(clients)],
        fusion=fusion,
        regular=federation.mode == "sync"
        and not (federation.dropout or federation.stragglers or federation.joins or federation.leaves),
        examples=examples,
    )


def require_accountant() -> None:
    """Raise InputError where `dp-accounting` is not installed; imports nothing heavy."""
    if find_spec("dp_accounting") is None:
        raise InputError("privacy: needs the package dp-accounting: pip install 'provfl[privacy]', or privacy=none")


def chosen_delta(delta: float | None, clients: int, examples: int = 0) -> float:
    """`delta`, or where it is None `n^-1.1`, n the training examples of all clients, or the clients if these are more.

    The power is that of McMahan et al. 2018, who take the clients, of which they have hundreds of thousands.
    """
    return max(clients, examples) ** -DELTA_EXPONENT if delta is None else delta


def composed(noise_multiplier: float, times: int, delta: float) -> float:
    """Epsilon of a Gaussian mechanism used so many times, deviation over sensitivity being `noise_multiplier`.

    `times` adaptive uses are as private as one with a deviation smaller by `sqrt(times)` (Dong et al. 2022, "Gaussian
    Differential Privacy"), whose epsilon is known exactly (Balle and Wang 2018, theorem 8).
    """
    from dp_accounting import get_epsilon_gaussian

    return 0.0 if times == 0 else float(get_epsilon_gaussian(noise_multiplier / math.sqrt(times), delta))


def amplified(noise_multiplier: float, rounds: int, clients: int, per_round: int, delta: float) -> float:
    """Epsilon where each round used `per_round` of `clients`, drawn uniformly without replacement and kept secret.

    Renyi accounting of Wang et al. 2019 ("Subsampled Renyi Differential Privacy", theorem 27). Their bound compares a
    client with another that is drawn in its place, so two clipped updates face each other: the sensitivity is twice
    that of leaving one out, also for zero-out neighbours, which are a case of it.
    """
    import dp_accounting

    if noise_multiplier == 0:
        return math.inf
    accountant = dp_accounting.rdp.RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    event = dp_accounting.GaussianDpEvent(noise_multiplier / 2)
    accountant.compose(dp_accounting.SampledWithoutReplacementDpEvent(clients, per_round, event), rounds)
    return float(accountant.get_epsilon(delta))


def central(noise_multiplier: float, delta: float | None, ledger: Ledger, unbounded: str | None) -> PrivacySpent:
    """What noise on the server's average leaves: deviation `noise_multiplier` times one client's part of the average.

    Sampling amplifies only where it was uniform and every round fused exactly those drawn. Then two bounds hold, with
    the draw kept secret or known, and the smaller is given: the first is the looser one where noise is little or a
    round takes many of the clients.

    Args:
        noise_multiplier: of clipped updates and, with adaptive clipping, the counts together.
        delta: None: from the number of clients.
        ledger: what was done.
        unbounded: why no bound is known; None where there is one.
    """
    at = chosen_delta(delta, ledger.clients, ledger.examples)
    if unbounded is not None:
        return PrivacySpent(None, at, f"central DP: {unbounded}", False)
    most = max(ledger.participations, default=0)
    epsilon = composed(noise_multiplier, most, at)
    how = f"each client fused at most {most} times in {ledger.rounds} rounds, no amplification by sampling"
    if ledger.regular and ledger.sampling == "uniform" and ledger.per_round < ledger.clients:
        secret = amplified(noise_multiplier, ledger.rounds, ledger.clients, ledger.per_round, at)
        if secret < epsilon:
            epsilon = secret
            how = (
                f"{ledger.rounds} rounds, each of {ledger.per_round} of {ledger.clients} clients drawn in secret and "
                "without replacement"
            )
    neighbours = "a client's updates against zeros in their place"
    text = f"central DP: Gaussian noise on the server's average, {how}, {neighbours}"
    return _spent(epsilon, at, text, ledger)


def local(noise_multiplier: float, delta: float | None, ledger: Ledger, unbounded: str | None) -> PrivacySpent:
    """What noise on each client's own update leaves, deviation `noise_multiplier` times the clip norm.

    Each message must hide which update the client sent, and two clipped ones lie up to twice the clip norm apart: the
    sensitivity is twice the norm (Kasiviswanathan et al. 2011, local randomizers). Nothing amplifies: the server sees
    who sent what. It holds under any fusion, since that only processes the messages.
    """
    at = chosen_delta(delta, ledger.clients, ledger.examples)
    if unbounded is not None:
        return PrivacySpent(None, at, f"local DP: {unbounded}", False)
    most = max(ledger.participations, default=0)
    epsilon = composed(noise_multiplier / 2, most, at)
    text = (
        f"local DP: Gaussian noise on each client's update, at most {most} updates a client, "
        "any two updates against each other (sensitivity of twice the clip norm)"
    )
    return _spent(epsilon, at, text, ledger)


def told(spent: PrivacySpent) -> str:
    """One line for people."""
    if spent.epsilon is None:
        return f"epsilon unknown: no meaningful guarantee ({spent.mechanism})"
    epsilon = "infinite, there is no noise" if isinf(spent.epsilon) else f"{spent.epsilon:,.4g}"
    whose = "for a client with all its data"
    return f"epsilon {epsilon} at delta {spent.delta:.2g}, {whose}{_verdict(spent)} ({spent.mechanism})"


def figures(spent: PrivacySpent | None) -> dict[str, float | str | None]:
    """Flat figures for `summary.json`: epsilon is null where it is unknown or infinite, the text says which."""
    if spent is None:
        return {"epsilon": None, "delta": None, "privacy": None}
    epsilon = None if spent.epsilon is None or isinf(spent.epsilon) else spent.epsilon
    return {"epsilon": epsilon, "delta": spent.delta, "privacy": told(spent)}


def _verdict(spent: PrivacySpent) -> str:
    """Of what is promised: that it is nothing, and why; or how delta compares with the rules for it."""
    if not spent.meaningful:
        reasons = []
        if spent.epsilon is not None and MEANINGLESS < spent.epsilon < math.inf:
            reasons.append(f"an epsilon above {MEANINGLESS:g} bounds nothing")
        if not _small(spent.delta, spent.clients):
            limit = min(LARGEST_DELTA, 1 / max(spent.clients, 1))
            reasons.append(
                f"with a probability of {spent.delta:.2g} the promise fails altogether, which has to be below "
                f"{limit:.2g} here ({spent.clients:,} clients)"
            )
        return ": no meaningful guarantee" + (f", {' and '.join(reasons)}" if reasons else "")
    if spent.examples and spent.delta * spent.examples >= 1:
        return f", which is not below one over the {spent.examples:,} training examples"
    return ""


def _spent(epsilon: float, delta: float, mechanism: str, ledger: Ledger) -> PrivacySpent:
    meaningful = epsilon <= MEANINGLESS and _small(delta, ledger.clients)
    return PrivacySpent(epsilon, delta, mechanism, meaningful, ledger.clients, ledger.examples)


def _small(delta: float, clients: int) -> bool:
    """A delta of one over the clients would allow to publish one of them as it is."""
    return delta * clients < 1 and delta <= LARGEST_DELTA
