"""What a round's global model would be without some of its clients, and what it would then predict (design section 2).

Two questions that differ. `withhold`: these clients return the model that they started from; weights, selection,
scales, masks and noise stay as they were. `refuse`: they do not take part; the server fuses what the others returned,
from the state that it had before the round.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from ..errors import RunError
from ..fusion.adapters import row_of
from ..fusion.conditions import TooFewReturned, fusion_name
from ..fusion.decomposition import Multiplier
from ..fusion.fuse import Fusion, FusionResult, fuse
from ..fusion.privacy import Privacy
from ..fusion.updates import ReturnedModels
from ..imports import later
from ..processes import one_thread
from ..provenance.targets import target_value
from ..store.rounds import Round
from .method import Case

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from ..provenance import outputs, responses, shared_part
else:
    np = later("numpy")
    torch = later("torch")
    outputs = later("provfl_cli.provenance.outputs")
    responses = later("provfl_cli.provenance.responses")
    shared_part = later("provfl_cli.provenance.shared_part")

Coalition = Collection[int]
"""Clients by their position in the round's stack."""


def models(case: Case, kind: str, removed: Iterable[Coalition]) -> Iterator[dict[str, Tensor] | None]:
    """The global tensors, buffers included, without each of the coalitions `removed`, one after the other.

    Nothing is computed before it is asked for. Buffers are those of the round under `withhold`, the average of the
    others' under `refuse`. Without any client at all `withhold` gives `W_prev + U`, `refuse` the model `W_prev`: a
    server to which nobody returns leaves it as it is, momentum and noise too.

    Args:
        case: the round, and how it was fused.
        kind: `withhold` or `refuse`.
        removed: the clients to go; an empty coalition gives the model as it is.

    Yields:
        One model for each coalition; None where the fusion refuses so few clients.
    """
    return {"withhold": _withheld, "refuse": _refused}[kind](case, removed)


def logits(case: Case, kind: str, removed: Iterable[Coalition]) -> Iterator[Tensor | None]:
    """What each of `models` makes of the inputs: float64 `[inputs, classes]` (or numbers); None: there is no model."""
    case.model.to(case.device).eval()
    for state in models(case, kind, removed):
        if state is None:
            yield None
            continue
        shared_part.load_part(case.model, state)
        yield torch.cat(list(outputs.outputs_of(case.model, case.inputs, case.device, case.tells_classes))).double()


@dataclass(frozen=True)
class Outcome:
    """What one model makes of the inputs of a case.

    Attributes:
        values: float64 `[inputs]`, of what is explained; NaN where there is no model.
        classes: int64 `[inputs]`, the predicted classes; -1 where there is no model, or it tells no classes apart.
    """

    values: np.ndarray
    classes: np.ndarray


def outcomes(case: Case, kind: str, removed: Iterable[Coalition], value: str) -> Iterator[Outcome]:
    """What each of `models` makes of the inputs, one coalition after the other.

    Args:
        case, kind, removed: see `models`.
        value: `log_probability` of the class explained, or of the whole response, or `target`: the scalar that the
            run's provenance explains; what has no probability has that alone.
    """
    wanted = case.explained.to(case.device)
    if isinstance(case.model, responses.ResponseScore) and value != "target":
        case = replace(case, model=responses.ResponseScore(case.model.module, value, case.model.span))
    for scores in logits(case, kind, removed):
        if scores is None:
            yield Outcome(np.full(len(wanted), np.nan), np.full(len(wanted), -1))
            continue
        if value == "target" or not case.tells_classes:
            values = target_value(case.provenance.target, scores, wanted)
        else:
            values = scores.log_softmax(1).gather(1, wanted[:, None]).squeeze(1)
        classes = scores.argmax(1) if case.tells_classes else torch.full((len(wanted),), -1)
        yield Outcome(values.cpu().numpy(), classes.cpu().numpy())


def sent_part(stored: Round, client: int, name: str) -> Tensor:
    """`A_k o (W_k - V_k)` for one client and parameter: what that client moved it by, float64 in its shape."""
    base = stored.bases().get(client, stored.previous())[name]
    own = row_of(stored.client_stack(), name, client).double() - base.double()
    parts = stored.decomposition
    moved = parts.example_weights[client] * own
    if name not in parts.multipliers:
        return moved
    whole = parts.multipliers[name]
    only = slice(client, client + 1)
    multiplier = Multiplier(
        whole.scalars[only], whole.shared, None if whole.bits is None else whole.bits[:, only], whole.values
    )
    shape = tuple(own.shape)
    return (moved.view(shape or (1,)) * multiplier.rows(slice(None), shape)[0]).view(shape)


def _withheld(case: Case, removed: Iterable[Coalition]) -> Iterator[dict[str, Tensor]]:
    """`W' = W - sum_k A_k o (W_k - V_k)` over the clients withheld.

    One sum is kept, in float64, from which each model is reached by the clients in which it differs from the last one:
    a client's update is read from disk when it goes or comes back.
    """
    stored = case.stored
    whole = stored.weights()
    sums = {name: whole[name].double().clone() for name in whole if name not in stored.buffers}
    gone: set[int] = set()
    for coalition in removed:
        wanted = set(coalition)
        with one_thread():
            for client in sorted(wanted ^ gone):
                for name, total in sums.items():
                    total.add_(sent_part(stored, client, name), alpha=-1 if client in wanted else 1)
        gone = wanted
        yield {name: sums[name].to(whole[name].dtype) if name in sums else whole[name] for name in whole}


def _refused(case: Case, removed: Iterable[Coalition]) -> Iterator[dict[str, Tensor] | None]:
    """The round fused again with the clients that are left."""
    everybody = range(len(case.stored.clients))
    for coalition in removed:
        left = [client for client in everybody if client not in coalition]
        model: dict[str, Tensor] | None
        if len(left) == len(everybody):
            model = dict(case.stored.weights())
        elif not left:
            model = dict(case.stored.previous())
        else:
            try:
                model = fused_again(case, left)
            except TooFewReturned:
                model = None
        yield model


def fused_again(case: Case, left: Sequence[int]) -> dict[str, Tensor]:
    """The global tensors that the server of a round would have made of what the clients `left` returned.

    Shares are renormalised by the fusion itself, to whom the others never existed; clip norm and momentum are those
    before the round; noise is the same draw from the run's seed, of the deviation that so many clients call for. How
    many values are trimmed and how many attackers are feared stays as it was.

    Raises:
        TooFewReturned: the fusion needs more clients.
        RunError: it needs `Case.steps`, which are not known.
    """
    assert case.fusion is not None  # else such a method is refused (`run.open_run`)
    return fuse_without(case.stored, left, case.fusion, case.privacy, case.seed, case.steps)[0].weights


def fuse_without(
    whole: Round,
    left: Sequence[int],
    fusion: Fusion,
    privacy: Privacy,
    seed: int,
    steps: Sequence[int] = (),
    state: Mapping[str, Tensor] | None = None,
) -> tuple[FusionResult, dict[str, Tensor]]:
    """Fuse a round again of what the clients at the positions `left` returned, as `fused_again` says.

    Args:
        whole: the round.
        left: positions in its stack, ascending; at least one.
        fusion, privacy, seed: of the federation.
        steps: optimizer steps of each of the round's clients; (): not known.
        state: of the server before it; None: what it was.

    Returns:
        What came out, and the server's state after it.

    Raises:
        TooFewReturned, RunError: as `fused_again`.
    """
    stored, state = whole.as_sent(), whole.server_state() if state is None else state
    everybody = len(stored.clients)
    steps = list(steps)
    if not steps:
        if fusion.needs_steps:
            name = fusion_name(fusion)
            raise RunError(f"round {stored.number}: fusion={name} cannot be run again without the clients' steps")
        steps = [1] * everybody
    returned = ReturnedModels(
        previous=stored.previous(),
        clients=_rest(stored.client_stack(), left),
        examples=[stored.examples[client] for client in left],
        steps=[steps[client] for client in left],
        buffers=stored.buffers,
        bases={left.index(client): base for client, base in stored.bases().items() if client in left},
        buffered=None if stored.buffered is None else stored.buffered.only(left),
    )
    with one_thread():  # as when the round was fused
        counted, updates = privacy.clipped(returned, state)
        noise = privacy.noise(counted, state, seed, stored.number)
        fused = fuse(fusion.fixed(everybody), counted, state, updates, noise)
        return fused, fused.state | privacy.next_state(updates, state, seed, stored.number)


@dataclass(frozen=True)
class _Rest(Mapping[str, "Tensor"]):
    """Some clients' rows of stacked tensors, taken when a name is read."""

    names: tuple[str, ...]
    read: Callable[[str], Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _rest(stack: Mapping[str, Tensor], left: Sequence[int]) -> _Rest:
    rows = list(left)
    # Fusion reads a tensor block by block: the rows of the latest one are kept, so that each is copied once.
    return _Rest(tuple(stack), lru_cache(maxsize=1)(lambda name: stack[name][rows]))
