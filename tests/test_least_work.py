"""A trace does little more than it has to: products and bytes of clients are counted, nothing is timed."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from bench_provenance import counted
from floor import executed, floor_work

from provfl_cli.provenance import factors

MOST = 1.3  # times the floor


def test_the_floor_by_hand() -> None:
    """Of a kernel of 3 x 3 on a map of one pixel one tap is alive; of an embedding the rows of the batch's tokens."""
    pictures = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Flatten(), nn.Linear(4, 5))
    shared = {name: parameter.nbytes for name, parameter in pictures.named_parameters()}
    work = floor_work(pictures, lambda: pictures(torch.randn(6, 2, 1, 1)), 6, 3, shared)
    assert (work.forward, work.backward) == (6 * (8 + 20), 6 * 20)
    assert work.contraction == 6 * (8 * 3 + 20 * 3)
    biases = 4 * (4 + 5)
    assert work.bytes == 3 * (4 * (72 + 20) + biases)
    assert work.used == 3 * (4 * (8 + 20) + biases)
    texts = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2, bias=False))
    shared = {name: parameter.nbytes for name, parameter in texts.named_parameters()}
    work = floor_work(texts, lambda: texts(torch.tensor([[1, 2, 1, 1, 1, 1, 1], [3, 3, 3, 3, 3, 3, 3]])), 2, 5, shared)
    assert work.contraction == 2 * 8 * (7 + 5)
    assert work.bytes == work.used == 5 * 4 * (3 * 4 + 8)


def test_products_and_what_is_read_are_counted() -> None:
    left, right = torch.randn(3, 4), torch.randn(4, 5)
    done = executed(lambda: (left[:2] @ right).sum(), [left])
    assert (done.products, done.bytes) == (2 * 4 * 5, 4 * 2 * 4)
    assert executed(lambda: left[torch.tensor([0])] + 1, [left]).bytes == 4 * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "clients", "inputs"),
    [("lenet", 10, 16), ("resnet18", 10, 8), ("resnet18", 50, 8), ("densenet121", 10, 4)],
)
def test_a_trace_does_little_more_than_the_floor(model: str, clients: int, inputs: int) -> None:
    done, least = counted(model, clients, inputs=inputs)
    assert done.products <= MOST * least.products, done.by_function
    assert done.bytes <= MOST * least.used
    assert done.products > 0.8 * least.products  # what is counted is the whole trace


@pytest.mark.slow
def test_the_dearer_contraction_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factors, "outputs_are_cheaper", lambda *_: True)
    done, least = counted("lenet", 50, inputs=16)
    assert done.products > MOST * least.products
