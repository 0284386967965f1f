"""What clients have sent over all rounds, as it is stored and read: rows of accumulators, in one file or in several.

`lineage.py` says what they are, and computes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ..imports import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")

FORGOTTEN = "forgotten"  # a kind: what decay has taken
WEIGHTED, PLAIN = "weighted", "plain"
OWNERS = "clients"  # the tensor of a file that says whose rows it has, where it has not all of them


@dataclass(frozen=True)
class LineageRows:
    """Which rows the accumulators have.

    Attributes:
        clients: numbers of all clients that took part in some round, ascending: the first rows.
        kinds: what no client sent, a row each behind the clients: `noise`, `stale`, `forgotten`.
        used: those of the clients that had a nonzero `A_k` in some round.
        last: for each of the clients the last round in which it took part.
        decay: what of every accumulator is kept from one round to the next; the rest is in the row `forgotten`.
        held: for each of the clients the round in whose file its row is; (): all are in the file of this round.
    """

    clients: tuple[int, ...]
    kinds: tuple[str, ...]
    used: tuple[int, ...]
    last: tuple[int, ...]
    decay: float
    held: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Number of all rows."""
        return len(self.clients) + len(self.kinds)

    @cached_property
    def positions(self) -> Mapping[int | str, int]:
        """Where the row of a client (its number) or of a kind is."""
        rows: tuple[int | str, ...] = (*self.clients, *self.kinds)
        return {row: position for position, row in enumerate(rows)}

    def written_by(self, number: int) -> tuple[int | str, ...]:
        """The rows that are in the file of round `number`, this one, in their order."""
        held = self.held or (number,) * len(self.clients)
        return (*(client for client, where in zip(self.clients, held, strict=True) if where == number), *self.kinds)


Part = tuple["Tensor", "Tensor | slice", "Tensor | slice"]
"""Stacked rows of one accumulator, which of them count, and their places among all rows."""


@dataclass(frozen=True, eq=False)
class RowsInFiles(Mapping[str, "Tensor"]):
    """Accumulators by name, of which each file has some rows; they have no momentum.

    `tensors[name]` puts all rows of one together in memory; `parts` reads them where they are.

    Attributes:
        rows: which they are.
        files: the tensors of each file by the number of the round that wrote it, this one's last.

    Raises:
        ValueError: a file has not the rows that it should have.
    """

    rows: LineageRows
    files: Mapping[int, Mapping[str, Tensor]]

    def __post_init__(self) -> None:
        _ = self.located  # what does not fit shows at once

    @cached_property
    def located(self) -> Mapping[int, tuple[Tensor, Tensor]]:
        """By file, which of its client rows count, and their places among all."""
        places: dict[int, list[int]] = {number: [] for number in self.files}
        for place, number in enumerate(self.rows.held):
            if number not in places:
                raise ValueError(f"the lineage of client {self.rows.clients[place]} is in no file")
            places[number].append(place)
        found = {}
        for number, file in self.files.items():
            owners = {int(client): row for row, client in enumerate(file[OWNERS].tolist())}
            theirs = [self.rows.clients[place] for place in places[number]]
            if missing := [client for client in theirs if client not in owners]:
                raise ValueError(f"the lineage of client {missing[0]} is not in the file of round {number}")
            rows = [owners[client] for client in theirs]
            found[number] = torch.tensor(rows, dtype=torch.int64), torch.tensor(places[number], dtype=torch.int64)
        return found

    def parts(self, name: str) -> Iterator[Part]:
        """The rows of an accumulator, file by file; what no client sent comes last."""
        for number, (rows, places) in self.located.items():
            if len(rows):
                yield self.files[number][name], rows, places
        if name.startswith(f"{WEIGHTED}/") and self.rows.kinds:
            count, kinds = len(self.rows.clients), len(self.rows.kinds)
            yield self._own[name], slice(len(self._own[OWNERS]), None), slice(count, count + kinds)

    def row(self, name: str, position: int) -> Tensor:
        """One row of an accumulator, by its place among all."""
        count = len(self.rows.clients)
        if position >= count:
            return self._own[name][len(self._own[OWNERS]) + position - count]
        number = self.rows.held[position]
        rows, places = self.located[number]
        return self.files[number][name][int(rows[torch.searchsorted(places, position)])]

    @property
    def _own(self) -> Mapping[str, Tensor]:
        return self.files[max(self.files)]

    def __getitem__(self, name: str) -> Tensor:
        if name == OWNERS:
            raise KeyError(name)
        first = self._own[name]
        count = self.rows.count if name.startswith(f"{WEIGHTED}/") else len(self.rows.clients)
        if len(self.files) == 1 and len(first) == count:
            return first
        whole = first.new_empty(count, *first.shape[1:])
        for tensor, rows, places in self.parts(name):
            whole[places] = tensor[rows]
        return whole

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._own if name != OWNERS)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Lineage:
    """The accumulators after a round, read lazily.

    Attributes:
        rows: which they are.
        initial: `W_0`.
        tensors: `weighted/NAME` `[rows, *shape]`: the `acc_k` of parameter NAME; `plain/NAME` `[clients, *shape]`: the
            same without the `q_k`; `velocity/NAME` and `plain_velocity/NAME`: the `m_k`, where the server has momentum.
    """

    rows: LineageRows
    initial: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]

    def parts(self, name: str) -> Iterator[Part]:
        """The rows of an accumulator where they lie, file by file; each is mapped, and none is copied."""
        if isinstance(self.tensors, RowsInFiles):
            yield from self.tensors.parts(name)
        else:
            yield self.tensors[name], slice(None), slice(None)

    def row(self, name: str, position: int) -> Tensor:
        """One row of an accumulator."""
        if isinstance(self.tensors, RowsInFiles):
            return self.tensors.row(name, position)
        return self.tensors[name][position]
