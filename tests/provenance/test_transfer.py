"""Clients on their way to a GPU: the order of copies, and that what a block reads is not overwritten too early."""

import copy
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from provfl_cli.errors import RunError
from provfl_cli.provenance import stack, trace, transfer
from provfl_cli.provenance.factors import outputs_are_cheaper
from provfl_cli.provenance.memory import activations, block_numbers, room
from provfl_cli.provenance.stack import Stack
from provfl_cli.provenance.torch_modes import exact_products
from provfl_cli.provenance.transfer import Transfer
from provfl_cli.provenance.workers.work import Work

from .federations import federation, settings

CPU = torch.device("cpu")


def test_a_copy_stays_until_the_next_but_one() -> None:
    copies, tensors = Transfer(CPU), [torch.randn(4, 30)[:, ::2] for _ in range(6)]
    previous: Tensor | None = None
    for at, tensor in enumerate(tensors):
        here = copies.moved(tensor)
        assert here.is_contiguous()
        assert torch.equal(here, tensor)
        if previous is not None:
            assert torch.equal(previous, tensors[at - 1])  # the block before may still be computed with
        previous = here
    assert len(copies.pieces) == transfer.PIECES


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_pieces_grow_with_what_they_have_to_hold(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "LEAST", 16)
    copies = Transfer(CPU)
    for size in (1, 100, 7, 300, 300, 2):
        tensor = torch.randn(size, 3).to(dtype)
        assert torch.equal(copies.moved(tensor), tensor)
        assert all(piece.gathered.nbytes & (piece.gathered.nbytes - 1) == 0 for piece in copies.pieces)


class _Event:
    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def synchronize(self) -> None:
        self.log.append(f"host waits for {self.name}")


class _Stream:
    """Writes down what is asked of it."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name, self.count = log, name, 0

    def record_event(self) -> _Event:
        self.count += 1
        return _Event(self.log, f"{self.name} {self.count}")

    def wait_event(self, event: _Event) -> None:
        self.log.append(f"{self.name} waits for {event.name}")


def test_a_copy_waits_for_the_block_before_the_last_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """While block 2 is computed, block 3 is copied over block 1: what was asked for up to the copy of 2 has to end."""
    log: list[str] = []
    computing, copying = _Stream(log, "computing"), _Stream(log, "copying")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: torch.autograd.profiler.record_function("copy"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("all"))
    pieces = [transfer._Piece(torch.empty(64, dtype=torch.uint8), torch.empty(64, dtype=torch.uint8)) for _ in "ab"]
    copies = Transfer(CPU, pieces, stream=copying)
    for _ in range(4):
        copies.moved(torch.zeros(8))
    assert log == [
        "computing waits for copying 1",
        "copying waits for computing 1",
        "computing waits for copying 2",
        "host waits for copying 1",
        "copying waits for computing 2",
        "computing waits for copying 3",
        "host waits for copying 2",
        "copying waits for computing 3",
        "computing waits for copying 4",
    ]


@pytest.mark.parametrize(
    ("positions", "clients", "by_outputs", "by_gradient"),
    [
        (1, 10, 0.0044, 0.0114),
        (1, 100, 0.0165, 0.0142),
        (4, 10, 0.0052, 0.0097),
        (4, 50, 0.0146, 0.0116),
        (16, 10, 0.0116, 0.0091),
        (16, 50, 0.042, 0.011),
        (64, 10, 0.032, 0.011),
        (64, 100, 0.31, 0.016),
    ],
)
def test_of_both_ways_the_one_that_an_h100_computed_faster(
    positions: int, clients: int, by_outputs: float, by_gradient: float
) -> None:
    assert outputs_are_cheaper(positions, clients, "cuda") == (by_outputs < by_gradient)


@pytest.mark.parametrize("of", ["updates", "weights"])
def test_blocks_that_are_copied_give_the_same_contributions(of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 3))
    source, _ = federation(model.double(), clients=5)
    inputs, chosen = torch.randn(6, 1, 6, 6, dtype=torch.float64), settings(of=of)
    usual = trace(copy.deepcopy(model), inputs, source, chosen).values
    monkeypatch.setattr(stack, "SMALL", 0)
    opened = Stack.open
    monkeypatch.setattr(
        Stack, "open", staticmethod(lambda *of, **by: replace(opened(*of, **by), transfer=Transfer(CPU), numbers=40))
    )
    again = trace(copy.deepcopy(model), inputs, source, chosen).values
    assert abs(again - usual).max() < 1e-12 * abs(usual).max()


def test_memory_that_runs_out_halves_the_batch_and_then_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(5, 3).double()
    source, _ = federation(model, clients=3)
    inputs = torch.randn(7, 5, dtype=torch.float64)
    usual = trace(model, inputs, source, settings()).values
    whole, sizes = Work.sums, list[int]()

    def bounded(self: Work, span: Mapping[str, int]) -> object:
        size = span.stop - span.start  # type: ignore[attr-defined]
        sizes.append(size)
        if size > 1 or self.setup.stack.numbers is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, span)  # type: ignore[arg-type]

    monkeypatch.setattr(Work, "sums", bounded)
    opened = Stack.open
    monkeypatch.setattr(Stack, "open", staticmethod(lambda *of, **by: replace(opened(*of, **by), numbers=40)))
    monkeypatch.setattr("provfl_cli.provenance.workers.work.block_numbers", lambda *_: 40)
    assert abs(trace(model, inputs, source, settings()).values - usual).max() < 1e-12
    assert sizes[:4] == [7, 4, 2, 1]

    def never(self: Work, span: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Work, "sums", never)
    with pytest.raises(RunError, match="too little memory left for the trace of a single input"):
        trace(model, inputs, source, settings())


def test_memory_is_what_is_said_or_what_a_gpu_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2**30)
    assert room(None, gpu) == int(0.6 * 10 * 2**30)
    assert room(100, gpu) == 100 * 2**20
    assert room(None, CPU) == activations(None, CPU) == 2048 * 2**20
    assert block_numbers(None, CPU, 4) is None
    blocks = block_numbers(100, gpu, 4)
    assert blocks is not None
    # Activations and ten tensors as large as a block stay below what was said.
    assert activations(100, gpu) + 10 * 4 * blocks <= 100 * 2**20
    assert activations(100, gpu) > 50 * 2**20


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_products_are_exact_meanwhile(precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        convolutions = torch.backends.cudnn.allow_tf32
        with exact_products():
            assert not torch.backends.cudnn.allow_tf32
            for place in (torch.backends.cuda.matmul, torch.backends.cudnn.conv):  # type: ignore[attr-defined]
                assert place.fp32_precision == "ieee"
            with torch.backends.cudnn.flags(enabled=False):  # as recurrent layers are traced
                pass
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cudnn.allow_tf32 == convolutions
    finally:
        torch.set_float32_matmul_precision(before)
