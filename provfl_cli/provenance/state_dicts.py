"""A round that is given as state dicts, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..coverage import printable
from ..errors import InputError
from ..fusion.decomposition import Decomposition
from ..fusion.fedavg import averaged
from ..fusion.state_dicts import require_examples, require_finite, require_names, require_same, require_state_dict
from ..fusion.updates import ReturnedModels

NAMES_SHOWN = 5


@dataclass(frozen=True, repr=False)
class RoundInMemory:
    """A round whose models are in memory."""

    clients: Sequence[int]
    decomposition: Decomposition
    after: Mapping[str, Tensor]
    before: Mapping[str, Tensor]
    stacked: Mapping[str, Tensor]
    late: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    corrected: Mapping[str, Tensor] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        called = [printable(name) for name in self.names[:NAMES_SHOWN]]
        more = ", …" if len(self.names) > NAMES_SHOWN else ""
        said = f": {', '.join(called)}{more}" if called else ""
        return f"RoundInMemory({len(self.clients)} clients{said}; {len(self.before)} tensors)"

    def weights(self) -> Mapping[str, Tensor]:
        """The global tensors after fusion."""
        return self.after

    def previous(self) -> Mapping[str, Tensor]:
        """The global tensors before."""
        return self.before

    def client_stack(self) -> Mapping[str, Tensor]:
        """The clients' tensors by name, stacked."""
        return self.stacked

    def bases(self) -> Mapping[int, Mapping[str, Tensor]]:
        """What late clients started from."""
        return self.late

    def corrections(self) -> Mapping[str, Tensor]:
        """How far the server's control variates moved each client."""
        return self.corrected


def from_state_dicts(
    clients: Sequence[Mapping[str, Tensor]] | Mapping[str, Mapping[str, Tensor]],
    examples: Sequence[int] | Mapping[str, int],
    previous: Mapping[str, Tensor],
    weights: Mapping[str, Tensor] | None = None,
    names: Sequence[str] | None = None,
) -> RoundInMemory:
    """A round of federated averaging from plain state dicts of any device; it is held in the CPU's memory.

        >>> import torch
        >>> before = {"weight": torch.zeros(2, 2)}
        >>> ann, bob = {"weight": torch.eye(2)}, {"weight": torch.ones(2, 2)}
        >>> from_state_dicts([ann, bob], [3, 1], before, names=["Ann", "Bob"]).weights()["weight"]
        tensor([[1.0000, 0.2500],
                [0.2500, 1.0000]])
        >>> from_state_dicts({"Ann": ann, "Bob": bob}, {"Ann": 3, "Bob": 1}, before)  # the same round
        RoundInMemory(2 clients: Ann, Bob; 1 tensors)

    Args:
        clients: list of state dicts, what each client returned; or a dict of them by the client's name.
        examples: list of int, the number of training examples of each; or a dict by name, where the clients are.
        previous: state dict, the global model that they started from.
        weights: state dict, the global model after fusion; None: averaged here.
        names: list of str, what the clients are called; None: by their numbers, from 0.

    Raises:
        InputError: what was given is not that, does not fit together, or holds numbers that are not finite.
    """
    if isinstance(clients, Mapping):
        clients, examples, names = _by_name(clients, examples, names)
    if isinstance(clients, str | Tensor | nn.Module) or not isinstance(clients, Sequence):
        raise InputError("clients: give a list of state dicts, or a mapping from clients' names to state dicts")
    if not clients:
        raise InputError("clients: there is none, give the state dict of at least one")
    called = () if names is None else require_names(names, len(clients))
    counts = require_examples(examples, called or [f"clients[{number}]" for number in range(len(clients))])
    before = require_state_dict(previous, "previous")
    require_finite(before, "previous")
    sent = []
    for number, client in enumerate(clients):
        what = f"clients[{number}]{f' ({printable(called[number])})' if called else ''}"
        sent.append(require_state_dict(client, what))
        require_same(before, sent[-1], what, "previous")
        require_finite(sent[-1], what)
    after = None
    if weights is not None:
        after = require_state_dict(weights, "weights")
        require_same(before, after, "weights", "previous")
        require_finite(after, "weights")
    stacked = {name: torch.stack([client[name] for client in sent]) for name in before}
    turning = frozenset(name for name, tensor in before.items() if tensor.is_complex())  # only buffers may be
    fused = averaged(ReturnedModels(before, stacked, counts, [1] * len(sent), turning))
    return RoundInMemory(range(len(sent)), fused.decomposition, after or fused.weights, before, stacked, names=called)


def _by_name(
    clients: Mapping[str, Mapping[str, Tensor]], examples: Sequence[int] | Mapping[str, int], names: object
) -> tuple[list[Mapping[str, Tensor]], Sequence[int], list[str]]:
    """Clients and examples that were given by name, as lists."""
    if any(isinstance(value, Tensor) for value in clients.values()):
        raise InputError("clients: is a single state dict, give a list with one for each client")
    if names is not None:
        raise InputError("names: the clients are given by name already, leave names out")
    if isinstance(examples, Mapping):
        missing, strange = (
            [key for key in clients if key not in examples],
            [key for key in examples if key not in clients],
        )
        if missing or strange:
            wrong = f"no number for {missing[0]}" if missing else f"{strange[0]} is no client"
            raise InputError(f"examples: {printable(wrong)}, give one for each name in clients")
        examples = [examples[key] for key in clients]
    return list(clients.values()), examples, list(clients)
