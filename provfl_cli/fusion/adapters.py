"""Low-rank adapters whose products are summed: the factors of all clients side by side (FLoRA, Wang et al. 2024).

A layer with an adapter computes `W + s B A`; client `k` returns `A_k` `[rank, in]`, `B_k` `[out, rank]`. Side by side,

    A = [A_1; A_2; …]  [clients * rank, in]        B = [q_1 B_1, q_2 B_2, …]  [out, clients * rank],

they have the product `B A = sum_k q_k B_k A_k`: the average of the products, with nothing left over. Seen so, `A` is
the same for everybody, and client `k` has moved its own columns of `B` alone, from 0 to `B_k`: a weighted mean as any
other. After the round both go behind those of the rounds before, into the base of the layer, which is thereby never
written out, and everybody starts from a fresh adapter, whose `B` is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ..imports import later
from ..seeds import generator

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")

FIRST, SECOND = "lora_A", "lora_B"  # parts of the names of `A` and of `B`
MERGED = "merged"  # what the adapter is called that stands for all former rounds


def adapter_pairs(names: Iterable[str]) -> dict[str, str]:
    """The name of `A` for the name of `B`, of the LoRA layers of which both are among the names.

    >>> adapter_pairs(["q.lora_A.default.weight", "q.lora_B.default.weight", "q.bias"])
    {'q.lora_B.default.weight': 'q.lora_A.default.weight'}
    """
    held = dict.fromkeys(names)
    pairs = {}
    for name in held:
        parts = name.split(".")
        if parts[-1] == "weight" and SECOND in parts:
            first = ".".join(FIRST if part == SECOND else part for part in parts)
            if first in held:
                pairs[name] = first
    return pairs


def merged_name(name: str) -> str:
    """The name of the factor that stands for all former rounds, from that of a round's own."""
    *layer, _, last = name.split(".")
    return ".".join((*layer, MERGED, last))


def is_merged(name: str) -> bool:
    """Whether it is the name of such a factor."""
    return name.split(".")[-2:-1] == [MERGED] and not {FIRST, SECOND}.isdisjoint(name.split("."))


def first_factor(sent: Tensor) -> Tensor:
    """`A` `[clients * rank, in]` of what clients returned, `[clients, rank, in]`."""
    return sent.flatten(0, 1)


def second_factor(sent: Tensor, shares: Tensor | None = None) -> Tensor:
    """`B` `[out, clients * rank]` of what clients returned, `[clients, out, rank]`; without `shares` each counts whole.

    `shares`: the `q_k`, float64 `[clients]`.
    """
    if shares is not None:
        sent = (sent.double() * shares.view(-1, 1, 1)).to(sent.dtype)
    return sent.transpose(0, 1).flatten(1)


class SideBySide(Mapping[str, "Tensor"]):
    """What clients returned, with the factors of adapters side by side: each has `A` and its own columns of `B`.

    A tensor is made when it is asked for; that of a `B` has a zero for all that is another client's.

    Attributes:
        sent: as it was returned, `[clients, *shape]` by name.
        pairs: from `adapter_pairs`.
    """

    def __init__(self, sent: Mapping[str, Tensor], pairs: Mapping[str, str]) -> None:
        self.sent, self.pairs = sent, pairs
        self.firsts = frozenset(pairs.values())

    def __getitem__(self, name: str) -> Tensor:
        sent = self.sent[name]
        if name in self.firsts:
            whole = first_factor(sent)
            return whole.expand(len(sent), *whole.shape)
        if name not in self.pairs:
            return sent
        clients, out, rank = sent.shape
        wide = sent.new_zeros(clients, out, clients, rank)
        for client in range(clients):
            wide[client, :, client] = sent[client]
        return wide.flatten(2)

    def __iter__(self) -> Iterator[str]:
        return iter(self.sent)

    def __len__(self) -> int:
        return len(self.sent)

    def of_client(self, name: str, client: int) -> Tensor:
        """One client's row of `self[name]`; the others are not made."""
        sent = self.sent[name]
        if name in self.firsts:
            return first_factor(sent)
        if name not in self.pairs:
            return sent[client]
        clients, out, rank = sent.shape
        wide = sent.new_zeros(out, clients, rank)
        wide[:, client] = sent[client]
        return wide.flatten(1)


def row_of(stack: Mapping[str, Tensor], name: str, client: int) -> Tensor:
    """What one client of a stack of tensors returned, without reading the others."""
    return stack.of_client(name, client) if isinstance(stack, SideBySide) else stack[name][client]


def product_squares(first: Tensor, second: Tensor) -> Tensor:
    """`|B_k A_k|^2` of each client, float64 `[clients]`, from `[clients, rank, in]` and `[clients, out, rank]`."""
    first, second = first.double(), second.double()
    return ((second.mT @ second) * (first @ first.mT)).sum((1, 2))


def merged(state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The factors of all rounds, the last one's included.

    They are those of the rounds before with the last one's behind them. Where that makes more columns than the layer
    has inputs or outputs, as many are kept, by a QR decomposition: the product is the same within rounding.

    Args:
        state: the server's before the round, with the factors of the rounds before, none before the first.
        weights: fused in the round, its factors side by side.
    """
    whole: dict[str, Tensor] = {}
    for second, first in adapter_pairs(weights).items():
        names = merged_name(first), merged_name(second)
        a, b = weights[first], weights[second]
        if names[0] in state:
            a, b = torch.cat([state[names[0]], a]), torch.cat([state[names[1]], b], 1)
        if len(a) > min(a.shape[1], len(b)):
            a, b = _narrowed(a, b)
        whole |= dict(zip(names, (a.contiguous(), b.contiguous()), strict=True))
    return whole


def _narrowed(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors with the same product, as narrow as the narrower side of it; computed in float64."""
    kind, a, b = a.dtype, a.double(), b.double()
    if len(b) <= a.shape[1]:
        q, r = torch.linalg.qr(b)
        return (r @ a).to(kind), q.to(kind)
    q, r = torch.linalg.qr(a.T)
    return q.T.to(kind), (b @ r.T).to(kind)


def merged_bytes(shapes: Mapping[str, tuple[int, ...]], clients: int, itemsize: int) -> int:
    """Bytes of the factors of all rounds at most, where so many clients' updates were summed: from shapes of one's."""
    total = 0
    for second, first in adapter_pairs(shapes).items():
        (out, rank), inputs = shapes[second], shapes[first][1]
        total += min(clients * rank, out, inputs) * (out + inputs)
    return total * itemsize


def fresh(weights: Mapping[str, Tensor], like: Mapping[str, Tensor], seed: int, number: int) -> dict[str, Tensor]:
    """What clients start round `number` from: `A` drawn as PEFT does, `B` 0, all else as it was fused.

    Args:
        weights: fused in the round before, factors side by side.
        like: the same tensors as clients hold them.
        seed: of the run.
        number: of the round that starts.
    """
    started = dict(weights)
    for second, first in adapter_pairs(weights).items():
        shape = like[first].shape
        drawn = torch.rand(shape, generator=generator(seed, "adapter", number, first), dtype=torch.float64)
        started[first] = ((2 * drawn - 1) / shape[1] ** 0.5).to(like[first].dtype)
        started[second] = torch.zeros_like(like[second])
    return started
