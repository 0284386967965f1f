"""Clients on their way from the CPU's memory to a GPU, while the GPU computes with those before.

A block is gathered into page-locked memory, from which the card copies it by itself, in a stream of its own. There are
two such pieces of memory on each side: while the products of one block are computed, the next is copied, and the one
after gathered. Nothing waits but for the memory that it is about to overwrite.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

PIECES = 2
SMALL = 1 << 16  # bytes up to which a copy of its own is as quick
LEAST = 1 << 20  # bytes of a piece


@dataclass
class _Piece:
    """Memory on both sides, bytes, and the event after which the card has read the page-locked one."""

    gathered: Tensor
    there: Tensor
    read: Any = None


@dataclass
class Transfer:
    """Copies tensors to a device; whatever reads what it returns has to be asked for before the next call.

    Attributes:
        device: to which; on `cpu` the same without streams, which is what tests can run anywhere.
        pieces: memory in turn.
        turn: number of copies so far.
        begun: what the device had been asked to compute when the copy before this one was asked for.
        stream: in which copies are made.
    """

    device: torch.device
    pieces: list[_Piece] = field(default_factory=list)
    turn: int = 0
    begun: Any = None
    stream: Any = None

    def moved(self, tensor: Tensor) -> Tensor:
        """A tensor of the CPU on the device, in its own type, contiguous."""
        piece = self._piece(tensor.nbytes)
        gathered = piece.gathered[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        there = piece.there[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        gathered.copy_(tensor)
        if self.stream is None:
            return there.copy_(gathered)
        computing = torch.cuda.current_stream(self.device)
        now = computing.record_event()
        with torch.cuda.stream(self.stream):
            # What read this piece was asked for before the last copy was: the block in between may still be computed.
            if self.begun is not None:
                self.stream.wait_event(self.begun)
            there.copy_(gathered, non_blocking=True)
            piece.read = self.stream.record_event()
        computing.wait_event(piece.read)
        self.begun = now
        return there

    def _piece(self, size: int) -> _Piece:
        """The memory whose turn it is, once nobody reads it any more, with room for so many bytes."""
        if self.device.type == "cuda" and self.stream is None:
            self.stream = torch.cuda.Stream(self.device)
        number, self.turn = self.turn % PIECES, self.turn + 1
        if number < len(self.pieces) and self.pieces[number].gathered.nbytes >= size:
            piece = self.pieces[number]
            if piece.read is not None:
                piece.read.synchronize()
            return piece
        if self.stream is not None:  # the memory of a smaller piece is handed back: nothing may be using it
            torch.cuda.synchronize(self.device)
        size = 1 << (max(size, LEAST) - 1).bit_length()
        fresh = _Piece(
            torch.empty(size, dtype=torch.uint8, pin_memory=self.stream is not None),
            torch.empty(size, dtype=torch.uint8, device=self.device),
        )
        self.pieces[number : number + 1] = [fresh]
        return fresh
