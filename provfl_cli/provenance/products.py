"""LoRA layers in terms of their product `s B A`, in which an adapter acts (`Provenance.adapters: product`).

A round averages A and B apart, and the product of averages is not the average of products. Here a client's part of a
layer is that of its own product, `< s (B_k A_k - B_prev A_prev), G >`, and what the average of products leaves of the
product of averages is a row beside the clients, `cross`. `G = sum over positions of g (x) z` is the gradient in the
dense product, which is never formed: `< B_k A_k, g (x) z > = (B_k^T g) . (A_k z)`, `rank` numbers for each position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..coverage import listed, printable
from ..errors import InputError
from ..fusion.adapters import FIRST, SECOND, adapter_pairs
from ..fusion.decomposition import ROUNDING
from .calls import Call
from .factors import BLOCK_NUMBERS
from .lineage import LineageRound
from .stack import CROSS, Source, Stack

INSTEAD = "provenance.adapters=factors, which traces A and B apart"


def factor_pairs(source: Source, names: Iterable[str], of: str) -> dict[str, str]:
    """The name of A for the name of B, of the LoRA layers of which the round holds both.

    Args:
        source: the round.
        names: of the model's parameters that it holds.
        of: the setting of that name.

    Raises:
        InputError: how the round was fused does not let products be told apart.
    """
    pairs = adapter_pairs(names)
    if isinstance(source, LineageRound):
        raise InputError(
            "provenance.adapters=product: over all rounds only sums of A and of B are kept, not of their products: "
            f"trace one round (provenance.scope=round), or {INSTEAD}"
        )
    if pairs:
        _check_average(source, pairs, of)
    return pairs


def _check_average(source: Source, pairs: Mapping[str, str], of: str) -> None:
    """Raise InputError unless A and B are averages of what this round's clients sent."""
    assert not isinstance(source, LineageRound)
    tensors = {*pairs, *pairs.values()}
    parts, why = source.decomposition, ""
    if any(name in tensors and not multiplier.is_one() for name, multiplier in parts.multipliers.items()):
        why = "its fusion takes A and B not by one share for each client"
    elif source.bases():
        why = "late clients started from another model"
    elif of == "gradients" and tensors & source.corrections().keys():
        why = "control variates moved its clients (provenance.of=updates traces what they sent)"
    elif of == "weights" and abs(1.0 - float(parts.example_weights.sum())) > 1e-9:
        why = "its clients' shares do not add up to 1"
    else:
        for kind, held in parts.unsent.items():
            if kind != ROUNDING and tensors & held.keys():
                why = f"a part of it came from no client ({printable(kind)})"
    if why:
        raise InputError(
            f"provenance.adapters=product: products are told apart where a round is an average of its clients, as of "
            f"fusion=fedavg, and of this one {why}: {INSTEAD}"
        )


@dataclass
class Pairing:
    """Which calls of one forward pass are the A and the B of a LoRA layer.

    Attributes:
        pairs: from `factor_pairs`.
        first: the last call of each A, by its name.
        others: all calls that took adapters, until they turn out to be such.
    """

    pairs: Mapping[str, str]
    first: dict[str, Call] = field(default_factory=dict)
    others: list[Call] = field(default_factory=list)

    def see(self, call: Call) -> None:
        """Look at a call as it is recorded; of a B that reads what its A has put out, both count as the product."""
        if not any(is_factor(name) for weight in call.weights.values() for name in weight.names):
            return
        self.others.append(call)
        weight = call.weights.get("weight")
        if call.function is not F.linear or weight is None or weight.view is not None:
            return
        (name,) = weight.names
        if call.arguments.get("bias") is None:
            self.first[name] = call
        first = self.first.get(self.pairs.get(name, ""))
        if first is not None and _reads(call, first):
            call.first_factor, first.in_product = first, True

    def products(self) -> set[str]:
        """Names of the B of all layers that count as a product."""
        return {call.weights["weight"].names[0] for call in self.others if call.first_factor is not None}

    def apart(self) -> set[str]:
        """Names of A and B in calls that are no such product."""
        calls = [call for call in self.others if not call.in_product and call.first_factor is None]
        return {name for call in calls for weight in call.weights.values() for name in weight.names if is_factor(name)}


def is_factor(name: str) -> bool:
    """Whether it is the name of one of the two factors of an adapter, of whatever layer."""
    return any(part.startswith((FIRST, SECOND, "lora_embedding_")) for part in name.split("."))


def _reads(call: Call, first: Call) -> bool:
    """Whether the input of a call is what the other has put out, itself."""
    read, put = call.arguments["input"], first.output
    if not isinstance(read, Tensor) or read.data_ptr() != put.data_ptr():
        return False
    return read.shape == put.shape and read.stride() == put.stride()


def product_rows(call: Call, g: Tensor, stack: Stack) -> Tensor:
    """All stack rows of one LoRA layer in terms of its product, `[batch, rows]`, in the type of sums.

    Sums over the rank and over positions, a block of either at a time, so that memory is bounded whatever they are.

    Args:
        call: of B; `first_factor` is that of A.
        g: the gradient of the target in what B puts out, masked, inputs in front. The scale `s` comes after B: it is in
            this gradient.
        stack: with a row `cross`.
    """
    first = call.first_factor
    assert first is not None
    second_weight, first_weight = call.weights["weight"], first.weights["weight"]
    z = first.data("input").to(g.dtype)
    batch, inputs, outputs = len(g), z.shape[-1], g.shape[-1]
    z, g = z.reshape(batch, -1, inputs), g.reshape(batch, -1, outputs)
    positions, rank = z.shape[1], first.output.shape[-1]
    result = g.new_zeros(batch, stack.rows, dtype=stack.wide)
    if not positions or not rank:
        return result
    example = torch.arange(batch, device=g.device).repeat_interleave(positions)
    z, g = z.reshape(-1, inputs), g.reshape(-1, outputs)
    reader, second_reader = stack.block(first_weight), stack.block(second_weight)
    numbers = stack.numbers or BLOCK_NUMBERS
    ranks = max(1, numbers // (stack.rows * max(inputs, outputs)))
    for start in range(0, rank, ranks):
        chosen = slice(start, min(rank, start + ranks))
        count = chosen.stop - chosen.start
        a_rows = reader(chosen, None).reshape(-1, inputs).T.clone()  # a copy: the next block takes its memory
        b_rows = second_reader(slice(None), partial(_columns, chosen=chosen)).transpose(0, 1)
        b_rows = b_rows.reshape(outputs, -1)
        step = max(1, numbers // (stack.rows * count))
        for at in range(0, len(z), step):
            where = slice(at, at + step)
            a = (z[where] @ a_rows).view(-1, stack.rows, count)
            b = (g[where] @ b_rows).view(-1, stack.rows, count)
            result.index_add_(0, example[where], _combined(a, b, stack).to(stack.wide))
    return result


def _columns(tensor: Tensor, chosen: slice) -> Tensor:
    return tensor[..., chosen]


def _combined(a: Tensor, b: Tensor, stack: Stack) -> Tensor:
    """`[positions, rows]` of `a`, what A makes of the input, and `b`, what B makes of the gradient, row by row.

    Both `[positions, rows, rank]`. With updates, rows of clients are those of `A_k - A_prev` and `B_k - B_prev`:
    `B_k A_k - B_prev A_prev = (B_k - B_prev) A_k + B_prev (A_k - A_prev)`, which does not cancel.
    """
    clients, rows = slice(0, stack.size), a.new_zeros(a.shape[:2])
    shares = stack.source.decomposition.example_weights.to(a.device, a.dtype)
    own_a, own_b = a[:, clients], b[:, clients]
    products = (own_a * own_b).sum(2)
    mean_a, mean_b = shares @ own_a, shares @ own_b
    rows[:, stack.size + stack.kinds.index(CROSS)] = (mean_a * mean_b).sum(1) - products @ shares
    rows[:, clients] = products
    whole_a, whole_b = mean_a, mean_b  # of the fused A and B, before they were rounded to be stored
    if stack.of != "weights":
        last = stack.counted - 1
        before_a, before_b = a[:, last], b[:, last]
        rows[:, clients] += (own_b @ before_a[..., None] + own_a @ before_b[..., None]).squeeze(2)
        rows[:, last] = (before_a * before_b).sum(1)
        whole_a, whole_b = before_a + mean_a, before_b + mean_b
    if ROUNDING in stack.kinds:
        row = stack.size + stack.kinds.index(ROUNDING)
        rows[:, row] = (b[:, row] * (whole_a + a[:, row]) + whole_b * a[:, row]).sum(1)
    return rows


def product_notes(pairs: Mapping[str, str], products: Iterable[str], apart: Iterable[str]) -> tuple[str, ...]:
    """What is said of a trace in terms of products.

    Args:
        pairs: from `factor_pairs`.
        products: names of the B that were traced so.
        apart: names of A and B that were not, or not everywhere.
    """
    left, done = sorted(apart), set(products)
    notes = []
    if not done:
        notes.append(
            "provenance.adapters=product changes nothing: the round holds no LoRA layer with both its A and its B"
            if not pairs
            else "provenance.adapters=product changes nothing: in no LoRA layer does B read what A puts out"
        )
    elif left:
        notes.append(
            "of adapters that are no plain LoRA layer, and of the norm that DoRA divides by, A and B are traced apart, "
            f"not as a product{listed(dict.fromkeys(left), ': ')}"
        )
    return tuple(notes)
