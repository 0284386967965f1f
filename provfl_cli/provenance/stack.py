"""Rows of client tensors as a trace reads them: `M_k o X_k`, block by block, from memory or from a mapped file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..fusion.decomposition import ROUNDING, Decomposition, Multiplier, unpack
from .calls import Weight
from .factors import Block, Select
from .lineage import LineageRound
from .state_dicts import from_state_dicts as from_state_dicts
from .transfer import SMALL, Transfer

CONTROL = "control"  # the row of what the server moved clients by
CROSS = "cross"  # the row of what fusing the factors of adapters apart has made of their product (`products.py`)
JOINED_NUMBERS = 1 << 24  # numbers of small parameters kept in memory from one batch to the next


class FusedRound(Protocol):
    """What a trace needs of a round; a stored round is one, and `from_state_dicts` makes one (`state_dicts.py`)."""

    @property
    def clients(self) -> Sequence[int]:
        """Client numbers, in the order of the stack."""

    @property
    def decomposition(self) -> Decomposition:
        """How the global model is made of them."""

    def weights(self) -> Mapping[str, Tensor]:
        """The global tensors after fusion."""

    def previous(self) -> Mapping[str, Tensor]:
        """The global tensors before."""

    def client_stack(self) -> Mapping[str, Tensor]:
        """The clients' tensors by name, `[clients, *shape]`; read one name at a time."""

    def bases(self) -> Mapping[int, Mapping[str, Tensor]]:
        """What late clients started from (`V_k`), by their position in the stack; the others from `previous`."""

    def corrections(self) -> Mapping[str, Tensor]:
        """How far the server's control variates moved each client while it trained (`C_k`), by name, `[clients,
        *shape]`; empty where there are none."""


Source = FusedRound | LineageRound


@dataclass(frozen=True)
class Stack:
    """Client rows `M_k o X_k`, then a row for each part that clients did not send, then one of the previous model.

    With `of: gradients` one of the parts is `control`, `sum_k A_k o C_k`, where the round has such corrections. The
    last row is `W_prev` itself (conservation needs its share), but with `of: weights` what of it stays in the fused
    model, `W_prev - sum_k A_k o V_k`; there it is left out where nothing stays.

    Where the global model is stored in a narrower type than is computed in, one of the parts is `rounding`: `W` as it
    is stored less the exact sum, where that is no more than rounding to the stored type explains. Where adapters are
    traced as products one is `cross`, 0 for every tensor.

    Over all rounds (a `LineageRound`) client rows are the `acc_k`, `q_k` included, and the previous model is `W_0`,
    whatever `of` says. Where contributions are wanted without the `q_k`, rows of those follow behind: `extra`.

    Attributes:
        source: the round.
        of: `weights` (`X_k = W_k`), `updates` (`X_k = W_k - V_k`) or `gradients` (`X_k = W_k - V_k - C_k`).
        kinds: what clients did not send, a row each, in the order of the rows.
        ends_with_previous: whether there is a row of the previous model.
        extra: number of the rows behind, which conservation does not count: none, or one a client.
        device, dtype: where and in what type blocks are computed.
        previous: the global tensors before.
        joined: rows of small parameters that were read together, kept for the next batch.
        scratch: the memory of the last block.
        numbers: in one block of clients; None: as few as stay in the cache of a CPU.
        transfer: how clients get to a GPU.
        held: what was moved to a GPU and stays there: the global tensors before.
    """

    source: Source
    of: str
    kinds: tuple[str, ...]
    ends_with_previous: bool
    extra: int
    device: torch.device
    dtype: torch.dtype
    previous: Mapping[str, Tensor]
    joined: dict[tuple[str, ...], Tensor] = field(default_factory=dict)
    scratch: list[Tensor] = field(default_factory=list)
    numbers: int | None = None
    transfer: Transfer | None = None
    held: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def open(
        source: Source,
        of: str,
        names: Sequence[str],
        device: torch.device,
        dtype: torch.dtype,
        weighting: str,
        products: bool = False,
    ) -> Stack:
        """Prepare to read the parameters `names` of the round; nothing is read yet.

        `weighting` is the setting `client_weighting`: `none` for contributions without the `q_k`, or `fusion`;
        `products` says whether adapters are traced as products.
        """
        parts = source.decomposition
        lineage = isinstance(source, LineageRound)
        late = isinstance(source, LineageRound) or bool(source.bases())
        corrected = of == "gradients" and not isinstance(source, LineageRound) and bool(source.corrections())
        weights = source.weights()
        rounded = any(weights[n].is_floating_point() and weights[n].itemsize < dtype.itemsize for n in names)
        return Stack(
            source=source,
            of=of,
            kinds=tuple(
                dict.fromkeys(
                    (
                        *parts.unsent,
                        *((CONTROL,) if corrected else ()),
                        *((CROSS,) if products else ()),
                        *((ROUNDING,) if rounded else ()),
                    )
                )
            ),
            ends_with_previous=of != "weights" or late or any(_stays(parts, name) for name in names),
            extra=len(source.clients) if lineage and weighting == "none" else 0,
            device=device,
            dtype=dtype,
            previous=source.previous(),
            transfer=Transfer(device) if device.type == "cuda" else None,
        )

    @property
    def size(self) -> int:
        """Number of client rows."""
        return len(self.source.clients)

    @property
    def counted(self) -> int:
        """Number of the rows that add up to the fused model."""
        return self.size + len(self.kinds) + self.ends_with_previous

    @property
    def rows(self) -> int:
        """Number of all rows."""
        return self.counted + self.extra

    @property
    def reported(self) -> slice:
        """The rows whose inner products are the clients' contributions."""
        return slice(self.counted, self.rows) if self.extra else slice(0, self.size)

    @property
    def wide(self) -> torch.dtype:
        """The type in which sums are kept: float64 where the device has it."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    def together(self, names: tuple[str, ...]) -> Tensor:
        """Several small parameters side by side, `[rows, numbers]`; kept for the next batch while that is cheap."""
        if names in self.joined:
            return self.joined[names]
        side_by_side = torch.cat([self._rows(n, slice(None)).reshape(self.rows, -1).clone() for n in names], 1)
        if sum(kept.numel() for kept in self.joined.values()) + side_by_side.numel() <= JOINED_NUMBERS:
            self.joined[names] = side_by_side
        return side_by_side

    def block(self, weight: Weight) -> Block:
        """A reader of rows of one parameter, as `contract` takes it."""
        if weight.view is None:
            return lambda rows, select: self._rows(weight.names[0], rows, select)
        view, whole = weight.view, list[Tensor]()

        def seen(rows: slice | Tensor, select: Select | None) -> Tensor:
            if not whole:
                plain = [self._rows(name, slice(None)).clone() for name in weight.names]
                if weight.linear:
                    whole.append(torch.func.vmap(view)(*plain))
                else:
                    at = tuple(self._move(self.source.weights()[name]) for name in weight.names)
                    whole.append(torch.func.vmap(lambda *x: torch.func.jvp(view, at, x)[1])(*plain))
            chosen = whole[0][:, rows] if whole[0].dim() > 1 else whole[0]
            return chosen if select is None else select(chosen)

        return seen

    def _move(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()  # only from pinned memory does a copy not keep the CPU waiting
        return tensor.to(self.device, self.dtype, non_blocking=True)

    def _rows(self, name: str, rows: slice | Tensor, select: Select | None = None) -> Tensor:
        """Those rows of a parameter for the whole stack, `[rows of the stack, rows, *rest]`, until the next call.

        Written into one piece of memory that every call uses again: new memory costs more than what is done with it.
        """
        index = rows.cpu() if isinstance(rows, Tensor) else rows
        before = self._part(self._before(name), index, select)
        block = self._memory(self.rows * before.numel()).view(self.rows, *before.shape)
        if isinstance(self.source, LineageRound):
            self._fill_over_rounds(block, self.source, name, before, index, select)
        else:
            self._fill(block, self.source, name, before, index, select)
        if ROUNDING in self.kinds:
            self._fill_rounding(block, name, before, index, select)
        return block

    def _fill_rounding(
        self, block: Tensor, name: str, before: Tensor, index: slice | Tensor, select: Select | None
    ) -> None:
        """The row `rounding`, once all others are there; nothing where the stored weights differ by more than rounding.

        A server that sums in the stored type rounds once for each client, and over several rounds once for each; as
        much as what it sums is large, which where clients differ is more than their mean. What the round itself calls
        rounding, since it was computed in a coarser type than it is stored in, stays there.
        """
        stored, row = self.source.weights()[name], self.size + self.kinds.index(ROUNDING)
        if name not in self.source.decomposition.unsent.get(ROUNDING, ()):
            block[row] = 0
        if not stored.is_floating_point() or stored.itemsize >= self.dtype.itemsize:
            return
        after = self._part(stored, index, select)
        shares = self._move(self.source.decomposition.example_weights)
        whole = torch.tensordot(shares, block[: self.size], 1) + block[self.size : self.counted].sum(0)
        times = self.size + 2
        if isinstance(self.source, LineageRound):
            times = 2 + sum(self.source.lineage.rows.last)
        kind = torch.finfo(stored.dtype)
        summed = before.abs()
        for share, rows in zip(shares.abs(), block[: self.size], strict=True):
            summed.addcmul_(share, rows.abs())
        largest = torch.maximum(after.abs(), summed)
        difference = after - whole
        explained = difference.abs() <= times * (largest * (kind.eps / 2) + kind.tiny * kind.eps)
        block[row] += torch.where(explained, difference, 0)

    def _fill_over_rounds(
        self,
        block: Tensor,
        source: LineageRound,
        name: str,
        before: Tensor,
        index: slice | Tensor,
        select: Select | None,
    ) -> None:
        """The rows of a lineage: all that added up to the model, the initial one, then clients without the `q_k`."""
        for tensor, rows, places in source.weighted(name):
            block[: source.lineage.rows.count][places] = self._part(tensor, index, select, stacked=True)[rows]
        block[self.counted - 1] = before
        if self.extra:
            for tensor, rows, places in source.plain(name):
                block[self.counted :][places] = self._part(tensor, index, select, stacked=True)[rows]

    def _fill(
        self, block: Tensor, source: FusedRound, name: str, before: Tensor, index: slice | Tensor, select: Select | None
    ) -> None:
        """The rows of one round."""
        parts = source.decomposition
        sent = self._part(source.client_stack()[name], index, select, stacked=True)
        clients = block[: self.size]
        starts = {position: self._part(base[name], index, select) for position, base in source.bases().items()}
        if self.of == "weights":
            clients.copy_(sent)
        else:
            torch.sub(sent, before, out=clients)
            for position, start in starts.items():
                torch.sub(sent[position], start, out=clients[position])
        correction = None
        if CONTROL in self.kinds and name in source.corrections():
            correction = self._part(source.corrections()[name], index, select, stacked=True)
            clients.sub_(correction)
        multiplier = parts.multipliers.get(name)
        factor = None if multiplier is None else self._factor(multiplier, name, index, select)
        if factor is not None:
            clients.mul_(factor)
        for row, kind in enumerate(self.kinds, self.size):
            if name in parts.unsent.get(kind, ()):
                block[row] = self._part(parts.unsent[kind][name], index, select)
            else:
                block[row] = 0
        if correction is not None:
            block[self.size + self.kinds.index(CONTROL)] = (self._shares(parts, factor, before) * correction).sum(0)
        if self.ends_with_previous:
            block[-1] = before
            if self.of == "weights":
                whole = self._shares(parts, factor, before)
                block[-1] *= 1.0 - whole.sum(0)
                for position, start in starts.items():
                    block[-1] -= whole[position] * (start - before)

    def _shares(self, parts: Decomposition, factor: Tensor | None, like: Tensor) -> Tensor:
        """`A_k = q_k M_k`, `[clients, …]`, with the dimensions of `like` behind; `factor`: the `M_k`, None for 1."""
        shares = self._move(parts.example_weights).view(-1, *(1,) * like.dim())
        return shares if factor is None else shares * factor

    def _factor(self, multiplier: Multiplier, name: str, index: slice | Tensor, select: Select | None) -> Tensor:
        """`M_k` for the wanted part of a parameter, `[clients, …]`; a one stands for dimensions that it has not."""
        part = self._part
        shape = tuple(self.previous[name].shape)
        factor = self._move(multiplier.scalars).view(-1, *(1,) * len(shape))
        if multiplier.shared is not None:
            factor = factor * part(multiplier.shared, index, select)
        if multiplier.bits is None or multiplier.values is None:
            return factor
        scalar = not shape
        terms = []
        for bits, value in zip(multiplier.bits, multiplier.values, strict=True):
            mask = unpack(bits if scalar else bits[:, index], shape[1:])
            mask = mask[:, 0] if scalar else mask if select is None else select(mask)
            terms.append(self._move(mask) * part(value, index, select))
        return factor * sum(terms)

    def _part(self, tensor: Tensor, index: slice | Tensor, select: Select | None, stacked: bool = False) -> Tensor:
        """The wanted part of a tensor of a parameter's shape, or of one with clients in front."""
        # `select` first, a view: an index would copy what is not wanted as well.
        seen = tensor if select is None else select(tensor)
        if isinstance(index, Tensor):
            index = index.to(tensor.device)
        scalar = tensor.dim() == stacked
        wanted = seen if scalar else seen[:, index] if stacked else seen[index]
        on_the_way = self.transfer if stacked and tensor.device.type == "cpu" and wanted.nbytes > SMALL else None
        if on_the_way is None:
            return self._move(wanted)
        there = on_the_way.moved(wanted)  # as it is stored: half the bytes of a round in half precision
        as_it_is = there.is_floating_point() and 2 <= there.itemsize <= self.dtype.itemsize
        return there if as_it_is else there.to(self.dtype)

    def _before(self, name: str) -> Tensor:
        """A tensor of the model before; on a GPU it stays there, since every block of it is read beside the clients."""
        if self.device.type != "cuda":
            return self.previous[name]
        if name not in self.held:
            self.held[name] = self.previous[name].to(self.device)
        return self.held[name]

    def _memory(self, numbers: int) -> Tensor:
        if not self.scratch or len(self.scratch[0]) < numbers:
            self.scratch[:] = [torch.empty(numbers, dtype=self.dtype, device=self.device)]
        return self.scratch[0][:numbers]


def _stays(parts: Decomposition, name: str) -> bool:
    """Whether anything of the previous model stays in the fused one: `sum_k A_k` is not 1."""
    multiplier = parts.multipliers.get(name)
    if multiplier is None:
        return abs(1.0 - float(parts.example_weights.sum())) > 1e-9
    if multiplier.shared is not None or multiplier.bits is not None:
        return True
    return abs(1.0 - float(parts.example_weights @ multiplier.scalars)) > 1e-9
