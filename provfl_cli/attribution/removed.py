"""The global model without what some clients have sent, in one round or in all of them; nothing is trained.

Two ways that differ in what becomes of the other clients' work.

`refused`: each round from one on is fused again of the others' stored updates, their shares renormalised by the fusion
itself, from the server's state that this leaves. Of FedAvg `W' = W_prev + sum_t sum_{j left} p_j / (1 - p_gone) U_j,t`.

`taken_out`: what the clients sent is subtracted, `W' = W - sum_{k gone} acc_k`, with `acc_k` of the lineage
(`fusion/lineage.py`); or, from a round on, the sum of `A_k,t o (W_k,t - V_k,t)` over the stored rounds. The others'
shares stay as they were and are not renormalised, so that the server has moved less far.

Both keep the others' updates as they sent them: those of later rounds answer a model that the clients who are gone had
their part in. Neither says what training without them would have given. Buffers are averaged over the others of the
last round.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError
from ..fusion.average import example_shares, weighted_average
from ..fusion.conditions import TooFewReturned
from ..fusion.fuse import Fusion
from ..fusion.lineage_rows import WEIGHTED
from ..fusion.privacy import Privacy
from ..imports import later
from ..processes import one_thread
from ..store.rounds import Round
from .counterfactual import fuse_without, sent_part

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")


@dataclass(frozen=True)
class Server:
    """How a federation's rounds are fused again; `steps` gives each client's optimizer steps in a round, () unknown."""

    fusion: Fusion
    privacy: Privacy
    seed: int
    steps: Callable[[Round], Sequence[int]]


def refused(rounds: Iterable[Round], gone: Collection[int], server: Server) -> dict[str, Tensor]:
    """The global tensors, buffers included, where the server refuses some clients from the first of `rounds` on.

    A round in which nobody else took part leaves the model as it was.

    Args:
        rounds: consecutive ones, ascending, up to the last of the federation; at least one.
        gone: numbers of the clients.
        server: how rounds are fused.

    Raises:
        InputError: the fusion cannot do with so few clients.
        RunError: as `counterfactual.fuse_without`.
    """
    moved: dict[str, Tensor] = {}  # float64: how far the new model is from the one that was, after each round
    state: Mapping[str, Tensor] | None = None
    weights: dict[str, Tensor] = {}
    for stored in rounds:
        left = _left(stored, gone)
        whole, before = stored.weights(), stored.previous()
        if left:
            try:
                fused, state = fuse_without(
                    stored, left, server.fusion, server.privacy, server.seed, server.steps(stored), state
                )
            except TooFewReturned as error:
                raise InputError(f"--how refuse: round {stored.number}: {error}") from error
            after: Mapping[str, Tensor] = fused.weights
        else:
            state, after = stored.server_state() if state is None else state, before
        with one_thread():
            for name in whole:
                if name in stored.buffers:
                    weights[name] = after[name]
                    continue
                made = after[name].double() + moved.get(name, 0.0)
                moved[name] = made - whole[name].double()
                weights[name] = made.to(whole[name].dtype)
    return weights


def taken_out(last: Round, gone: Collection[int], rounds: Iterable[Round] | None = None) -> dict[str, Tensor]:
    """The global tensors, buffers included, after a round, less what some clients sent.

    Args:
        last: the round.
        gone: numbers of the clients.
        rounds: those whose contributions go, `last` included; None: all that there were, as its lineage has them.

    Raises:
        InputError: nobody knows what of the model is theirs.
    """
    whole = last.weights()
    names = [name for name in whole if name not in last.buffers]
    with one_thread():
        if rounds is None:
            theirs = _accumulated(last, gone, names)
        else:
            theirs = {name: torch.zeros(whole[name].shape, dtype=torch.float64) for name in names}
            for stored in rounds:
                if "momentum" in stored.decomposition.unsent:
                    raise InputError(
                        f"--how lineage: the server of round {stored.number} has momentum, of which the stored rounds "
                        "do not say whose it is: provfl run with provenance.scope=lineage, and leave --from out"
                    )
                for position in set(range(len(stored.clients))) - set(_left(stored, gone)):
                    for name in names:
                        theirs[name] += sent_part(stored, position, name)
        made = {name: (whole[name].double() - theirs[name]).to(whole[name].dtype) for name in names}
        return {name: made[name] if name in made else _buffer(last, gone, name) for name in whole}


def _accumulated(last: Round, gone: Collection[int], names: Iterable[str]) -> dict[str, Tensor]:
    """`sum acc_k` over the clients `gone`, float64 by name."""
    lineage = last.lineage()
    assert lineage is not None  # it was asked for
    rows = [lineage.rows.positions[client] for client in lineage.rows.clients if client in gone]
    theirs = {}
    for name in names:
        theirs[name] = torch.zeros(lineage.initial[name].shape, dtype=torch.float64)
        for row in rows:
            theirs[name] += lineage.row(f"{WEIGHTED}/{name}", row)
    return theirs


def _left(stored: Round, gone: Collection[int]) -> list[int]:
    """Positions in a round of the clients that are left."""
    return [position for position, client in enumerate(stored.clients) if client not in gone]


def _buffer(stored: Round, gone: Collection[int], name: str) -> Tensor:
    """A buffer as the clients that are left average it; as it was before the round where there are none."""
    left = _left(stored, gone)
    if len(left) in (0, len(stored.clients)):
        return (stored.weights() if left else stored.previous())[name]
    shares = example_shares([stored.examples[position] for position in left])
    return weighted_average(stored.client_stack()[name][left], shares)
