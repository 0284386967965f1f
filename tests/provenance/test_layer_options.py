"""Options of layers that are not at their defaults: eps, scales of a product, even kernels, groups with dead rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from provfl_cli.provenance import factors

from .exactness import assert_exact
from .networks import head


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


def drawn(*shape: int) -> Tensor:
    return torch.randn(4, *shape, dtype=torch.float64)


# -- products with `beta` and `alpha` ----------------------------------------------------------------------------------


class Product(nn.Module):
    """`form(bias, x, weight)` in front of a linear layer."""

    def __init__(self, form: Callable[..., Tensor], bias: tuple[int, ...], weight: tuple[int, ...]) -> None:
        super().__init__()
        self.form = form
        self.bias, self.weight = nn.Parameter(torch.randn(bias)), nn.Parameter(torch.randn(weight))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.form(self.bias, x, self.weight).tanh())


SCALES = {"beta": 0.5, "alpha": 3.0}
PRODUCTS = {
    "addmm": (lambda b, x, w: torch.addmm(b, x, w, **SCALES), (5,), (6, 5)),
    "addmm, beta alone": (lambda b, x, w: torch.addmm(b, x, w, beta=0.5), (5,), (6, 5)),
    "addmm, alpha alone": (lambda b, x, w: torch.addmm(b, x, w, alpha=3), (5,), (6, 5)),
    "addmm, no bias at all": (lambda b, x, w: torch.addmm(b, x, w, beta=0) + b, (5,), (6, 5)),
    "addmm of a tensor": (lambda b, x, w: b.addmm(x, w, **SCALES), (5,), (6, 5)),
    "addmm, a bias for each input and output": (lambda b, x, w: torch.addmm(b, x, w, **SCALES), (1, 5), (6, 5)),
    "addmm, the data added": (lambda b, x, w: torch.addmm(x[:, :5], x, w, **SCALES) + b, (5,), (6, 5)),
    "addmm, the weight in front": (lambda b, x, w: torch.addmm(b[:, None], w, x.T, **SCALES).T, (5,), (5, 6)),
    "baddbmm": (
        lambda b, x, w: torch.baddbmm(b, x[:, None], w.expand(len(x), -1, -1), **SCALES).squeeze(1),
        (1, 1, 5), (6, 5),
    ),
    "matmul": (lambda b, x, w: 3 * (x @ w) + 0.5 * b, (5,), (6, 5)),
    "addcmul": (lambda b, x, w: torch.addcmul(b, x[:, :5], w, value=3.0), (5,), (5,)),
    "add with alpha": (lambda b, x, w: torch.add(x @ w, b, alpha=3), (5,), (6, 5)),
    "sub with alpha": (lambda b, x, w: torch.sub(x @ w, b, alpha=3), (5,), (6, 5)),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_with_scales(name: str) -> None:
    form, bias, weight = PRODUCTS[name]
    assert_exact(Product(form, bias, weight), drawn(6))


# -- normalisations ----------------------------------------------------------------------------------------------------


NORMS = {
    "batch": (nn.BatchNorm2d(4, eps=0.7), (4, 3, 3)),
    "batch of vectors": (nn.BatchNorm1d(6, eps=0.7), (6,)),
    "group": (nn.GroupNorm(2, 4, eps=0.7), (4, 3)),
    "instance": (nn.InstanceNorm1d(4, affine=True, eps=0.7), (4, 3)),
    "instance, running statistics": (
        nn.InstanceNorm1d(4, affine=True, track_running_stats=True, eps=0.7), (4, 3),
    ),
    "layer": (nn.LayerNorm(6, eps=0.7), (2, 6)),
    "root mean square": (nn.RMSNorm(6, eps=0.7), (2, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMS)
def test_norms_with_a_large_eps(name: str) -> None:
    """At 0.7 a norm that took another eps would be far off."""
    norm, shape = NORMS[name]
    assert_exact(head(norm, shape), drawn(*shape))


def test_a_norm_called_as_a_function_with_its_default_eps() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias, self.head = (
                nn.Parameter(torch.randn(4)),
                nn.Parameter(torch.randn(4)),
                nn.Linear(4, 3),
            )
            self.register_buffer("mean", torch.zeros(4))
            self.register_buffer("running_var", torch.full((4,), 1e-5))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.batch_norm(x, self.mean, self.running_var * 0 + 1e-5, self.weight, self.bias).tanh())

    assert_exact(Functional(), drawn(4) * 1e-3)


# -- convolutions ------------------------------------------------------------------------------------------------------


SAME = {
    "even": (nn.Conv1d(2, 5, 4, padding="same"), (2, 9)),
    "two": (nn.Conv1d(2, 5, 2, padding="same"), (2, 6)),
    "even and dilated": (nn.Conv1d(2, 5, 4, padding="same", dilation=3), (2, 12)),
    "even in one dimension": (nn.Conv2d(2, 3, (2, 3), padding="same"), (2, 5, 4)),
    "even, wider than the picture": (nn.Conv2d(2, 3, 6, padding="same"), (2, 3, 4)),
    "valid": (nn.Conv2d(2, 3, 2, padding="valid"), (2, 3, 4)),
}


class Called(nn.Module):
    """A convolution called as a function with nothing but its weight."""

    def __init__(self, form: Callable[..., Tensor], shape: tuple[int, ...], input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.form, self.weight = form, nn.Parameter(torch.randn(shape))
        self.head = nn.Linear(form(torch.zeros(1, *input_shape), torch.zeros(shape)).numel(), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.form(x, self.weight).tanh().flatten(1))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("name", ["conv", "conv_transpose"])
def test_convolutions_called_without_any_option(name: str, dimensions: int) -> None:
    form = getattr(F, f"{name}{dimensions}d")
    input_shape = (2, *(4,) * dimensions)
    assert_exact(Called(form, (2, 2, *(3,) * dimensions), input_shape), drawn(*input_shape))


DILATED = {
    "outer taps see only padding": (nn.Conv2d(4, 6, 3, padding=3, dilation=3), (4, 2, 2)),
    "first tap sees only padding": (nn.Conv1d(4, 6, 3, padding=4, dilation=4), (4, 4)),
    "transposed, few pixels": (nn.ConvTranspose2d(4, 6, 3, padding=3, dilation=3), (4, 2, 2)),
    "strided": (nn.Conv1d(4, 6, 4, padding=5, dilation=2, stride=3), (4, 5)),
}


@pytest.mark.parametrize("name", DILATED)
def test_dilated_kernels_wider_than_the_picture(name: str) -> None:
    layer, shape = DILATED[name]
    assert_exact(head(layer, shape), drawn(*shape))


@pytest.mark.parametrize("name", SAME)
def test_same_padding(name: str) -> None:
    layer, shape = SAME[name]
    assert_exact(head(layer, shape), drawn(*shape))


class Grouped(nn.Module):
    """Two groups of eight output channels on one position each, of which some reach nothing: other ones in each."""

    def __init__(self, alive: tuple[int, ...]) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 16, 3, groups=2)
        kept = torch.zeros(16, dtype=torch.bool)  # whole numbers: what floats is changed in a client
        kept[list(alive)] = True
        self.register_buffer("kept", kept)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).flatten(1) * self.kept)


@pytest.mark.parametrize("alive", [(0, 2, 5, 9, 15), (3,), (12, 13), (0, 1, 2, 3, 4, 5, 6, 7, 8), range(16)])
@pytest.mark.parametrize("block", [1, 200, factors.BLOCK_NUMBERS])
def test_groups_with_dead_rows(alive: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factors, "BLOCK_NUMBERS", block)
    assert_exact(Grouped(alive), drawn(8, 3, 3))


def test_groups_with_dead_rows_are_read_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that are read are those alive, counted over both groups."""
    seen: list[int] = []
    live = factors._live_rows

    def noted(left: Tensor, inputs: int) -> Tensor | None:
        rows = live(left, inputs)
        seen.append(-1 if rows is None else len(rows))
        return rows

    monkeypatch.setattr(factors, "_live_rows", noted)
    assert_exact(Grouped((0, 2, 5, 9, 15)), drawn(8, 3, 3))
    assert seen[-2:] == [3, 2]  # behind the last layer's, and those of the first inputs, which are looked at before


# -- attention ---------------------------------------------------------------------------------------------------------


class Attended(nn.Module):
    """A prediction from what attention gives and from its weights."""

    def __init__(self, average: bool, mask: Tensor | None) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.average, self.mask = average, mask
        self.head = nn.Linear(24 + 16 * (1 if average else 2), 3)

    def forward(self, x: Tensor) -> Tensor:
        mask = self.mask
        if mask is not None and mask.dim() == 3:
            mask = mask.expand(2 * len(x), -1, -1)  # of each input and head
        mixed, weights = self.attention(x, x, x, need_weights=True, average_attn_weights=self.average, attn_mask=mask)
        return self.head(torch.cat([mixed.flatten(1), weights.flatten(1)], 1))


MASKS = {
    "none": None,
    "of numbers": torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    "of what is hidden": torch.triu(torch.ones(4, 4, dtype=torch.bool), 1),
    "for each head": torch.triu(torch.ones(4, 4, dtype=torch.bool), 1)[None],
}


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("mask", MASKS)
def test_attention_whose_weights_are_used(average: bool, mask: str) -> None:
    assert_exact(Attended(average, MASKS[mask]), drawn(4, 6))


def test_a_row_is_alive_where_any_input_reaches_it_whatever_the_sign() -> None:
    left = torch.zeros(2, 8, 1)
    left[1, 3, 0], left[0, 5, 0] = -2.0, 1.0  # of the other input nothing
    live = factors._live_rows(left, 100)
    assert live is not None
    assert live.tolist() == [3, 5]
    assert factors._live_rows(torch.ones(2, 8, 1), 100) is None  # all: leaving out pays nothing
    assert factors._live_rows(left.expand(2, 8, 30), 100) is None  # looking costs as much
