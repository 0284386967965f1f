"""FLDetector's suspicious scores (Zhang, Cao, Jia and Gong, KDD 2022, "FLDetector: Defending Federated Learning Against
Model Poisoning Attacks via Detecting Malicious Clients").

As in the paper: an honest client's update can be foretold from its last one, `g_k' = g_k^(t-1) + H (w_t - w_(t-1))`,
H the Hessian that L-BFGS makes of how the global model and the server's updates moved in the rounds before. A
client's score in a round is `|g_k' - g_k|`, divided by the sum over the clients; its suspicious score the mean of the
latest rounds. Updates are gradients in sign: `g_k = V_k - W_k`, and the server's `g = W_prev - W`.

What had to differ: the paper's clients send one gradient a round and train for hundreds of rounds, with a window of ten
that is full before anybody is scored; here a round is a client's whole local training, and the window is what there is.
The paper then clusters the scores by k-means where a gap statistic finds more than one cluster; here they are ranked.
A client that was not in the round before has no last update, and is not ranked; one that was in few of the scored
rounds has the mean of those.

The paper's conditions: all clients in every round, the same base for all, an attack that changes from round to round.
Three rounds are needed at least. A value is the same for every prediction.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..checks import Range, in_range
from ..config.parts import RunSettings
from ..errors import InputError
from ..fusion.updates import ReturnedModels, Updates, unclipped
from ..imports import later
from ..store.rounds import Round
from .earlier import check_all_kept, rounds_before
from .method import AttributionResult, Case, for_every_input, shared_parameters, used_clients
from .settings import check_no_products

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = later("numpy")
    torch = later("torch")

FEWEST = 3  # rounds: two steps of the global model, and the update that they foretell


@dataclass(frozen=True)
class FLDetector:
    """See the module.

    Attributes:
        name: of the method.
        window: of so many rounds at most L-BFGS makes its Hessian, and the scores are averaged (`N` in the paper).
    """

    name: str = "fldetector"
    window: Annotated[int, Range(1, 1000)] = 10

    def __post_init__(self) -> None:
        in_range(f"attribution.{self.name}", self)

    def check(self, run: RunSettings) -> None:
        """Refuse a run that forgets its rounds, or has too few."""
        check_no_products(self.name, run.fusion)
        if run.federation.rounds < FEWEST:
            raise InputError(
                f"attribution={self.name}: foretells updates from those before, which takes federation.rounds={FEWEST} "
                f"or more, not {run.federation.rounds}"
            )
        check_all_kept(self.name, run)

    def attribute(self, case: Case) -> AttributionResult:
        """The mean score of each client, over at most `window` rounds up to this one."""
        began = time.perf_counter()
        rounds = _in_a_row([*rounds_before(case.stored), case.stored])
        names, scores = shared_parameters(case), dict[int, list[float]]()
        scored = range(max(FEWEST - 1, len(rounds) - self.window), len(rounds))
        for at in scored:
            history = rounds[max(0, at - self.window - 1) : at + 1]
            for client, score in round_scores(history, names).items():
                scores.setdefault(client, []).append(score)
        clients = case.stored.clients
        known = np.array([client in scores for client in clients])
        values = np.array([float(np.mean(scores[client])) if client in scores else 0.0 for client in clients])
        notes = []
        if not scored:
            notes.append(f"{FEWEST} rounds in a row are needed, {len(rounds)} are kept up to round {rounds[-1].number}")
        elif not known.all():
            notes.append(f"{int((~known).sum())} of the clients not in two rounds in a row, which it cannot rank")
        return AttributionResult(
            for_every_input(values, case),
            used_clients(case) & known,
            time.perf_counter() - began,
            note=f"{self.name}: {notes[0]}" if notes else "",
        )


def _in_a_row(rounds: Sequence[Round]) -> list[Round]:
    """The last rounds, without those before a gap."""
    kept = [rounds[-1]]
    for stored in reversed(rounds[:-1]):
        if stored.number != kept[0].number - 1:
            break
        kept.insert(0, stored)
    return kept


def round_scores(history: Sequence[Round], names: Sequence[str]) -> dict[int, float]:
    """How far each client's update is from what the rounds before foretell, as a share of all clients' distances.

    Args:
        history: three rounds or more in a row; the last one is scored.
        names: of the parameters.

    Returns:
        By client, of those in both of the last two rounds.
    """
    last, before = history[-1], history[-2]
    both = [client for client in last.clients if client in before.clients]
    if not both:
        return {}
    steps = len(history) - 2
    s_y, s_s = np.zeros((steps, steps)), np.zeros((steps, steps))
    s_v, y_v, y_s = np.zeros(steps), np.zeros(steps), 0.0
    for moves, gradients, step, _, _ in _blocks(history, names):
        s_y += moves @ gradients.T
        s_s += moves @ moves.T
        s_v += moves @ step
        y_v += gradients @ step
        y_s += float(gradients[-1] @ moves[-1])
    sigma, along_moves, along_gradients = hessian_times(s_s, s_y, s_v, y_v, y_s)
    at_last, at_before = ([stored.clients.index(client) for client in both] for stored in (last, before))
    squares = np.zeros(len(both))
    for moves, gradients, step, own, earlier in _blocks(history, names):
        foretold = sigma * step + along_moves @ moves + along_gradients @ gradients
        squares += np.square(earlier[at_before] + foretold - own[at_last]).sum(axis=1)
    distances = np.sqrt(squares)
    total = distances.sum()
    shares = distances / total if total > 0 else np.full(len(both), 1 / len(both))
    return dict(zip(both, shares.tolist(), strict=True))


def hessian_times(
    s_s: np.ndarray, s_y: np.ndarray, s_v: np.ndarray, y_v: np.ndarray, last: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """The product of the L-BFGS Hessian with a vector v, as `sigma v + a S + b Y` (Byrd, Nocedal and Schnabel 1994).

    The Hessian is `sigma I - [sigma S, Y] M^-1 [sigma S, Y]^T`, `M = [[sigma S^T S, L], [L^T, -D]]`, `L` what lies
    below the diagonal `D` of `S^T Y`; moves S and changes of the gradient Y are rows here.

    Args:
        s_s, s_y: inner products of the moves with each other, and with the changes, `[steps, steps]`.
        s_v, y_v: of both with v, `[steps]`.
        last: of the last change with the last move.

    Returns:
        sigma, a `[steps]` and b `[steps]`. Where moves depend on each other, the shortest solution.
    """
    sigma = last / s_s[-1, -1] if s_s[-1, -1] > 0 else 0.0
    lower = np.tril(s_y, -1)
    middle = np.block([[sigma * s_s, lower], [lower.T, -np.diag(np.diag(s_y))]])
    solved = np.linalg.lstsq(middle, np.concatenate([sigma * s_v, y_v]), rcond=None)[0]
    steps = len(s_v)
    return sigma, -sigma * solved[:steps], -solved[steps:]


def _blocks(
    history: Sequence[Round], names: Sequence[str]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Block by block of all parameters, float64, flat: the moves of the global model in the rounds before and the
    changes of the server's update with them, `[steps, n]`; its last move `[n]`; the clients' updates in the last round
    and the one before, `[clients, n]`."""
    own, earlier = (_updates(stored) for stored in (history[-1], history[-2]))
    for name in names:
        for where in own.blocks(name):
            begins = np.stack([_part(stored.previous()[name], where) for stored in history])
            updates = begins[:-1] - begins[1:]  # g of every round but the last: where the next begins
            moves, changes = np.diff(begins, axis=0), np.diff(updates, axis=0)
            yield moves[:-1], changes, moves[-1], _rows(own, name, where), _rows(earlier, name, where)


def _updates(stored: Round) -> Updates:
    return unclipped(
        ReturnedModels(stored.previous(), stored.client_stack(), stored.examples, (), stored.buffers, stored.bases())
    )


def _rows(updates: Updates, name: str, where: slice) -> np.ndarray:
    """`V_k - W_k`, flat."""
    rows: np.ndarray = -updates.own(name, where).flatten(1).numpy()
    return rows


def _part(tensor: Tensor, where: slice) -> np.ndarray:
    part: np.ndarray = (tensor[None] if tensor.dim() == 0 else tensor[where]).double().flatten().numpy()
    return part
