"""Where functions that reorder dimensions put the batch: what the recorder believes is what torch does."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch

from provfl_cli.provenance import axes
from provfl_cli.provenance.marks import is_in_place

SIZES = (3, 5, 7)


def moved_axis(name: str, args: Any, kwargs: Any, axis: int) -> int | None:
    return axes.moved_axis(name, args, kwargs, axis, args[0], batch=2)


def where_torch_puts_it(name: str, args: Any, kwargs: Any, axis: int, sizes: tuple[int, ...]) -> int:
    """The dimension of the result that has the size that `axis` had."""
    return list(getattr(torch.empty(sizes), name)(*args, **kwargs).shape).index(sizes[axis])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", ["transpose", "swapaxes", "swapdims"])
@pytest.mark.parametrize("dims", [(0, 1), (1, 2), (2, 0), (-1, 0), (-2, -1), (1, 1)])
def test_two_dimensions_change_places(name: str, dims: tuple[int, int], axis: int) -> None:
    tensor = torch.empty(SIZES)
    expected = where_torch_puts_it(name, dims, {}, axis, SIZES)
    assert moved_axis(name, (tensor, *dims), {}, axis) == expected
    if name == "transpose":
        assert moved_axis(name, (tensor,), {"dim0": dims[0], "dim1": dims[1]}, axis) == expected


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_all_dimensions_are_put_in_another_order(order: tuple[int, ...], axis: int) -> None:
    tensor, negative = torch.empty(SIZES), tuple(n - 3 for n in order)
    expected = where_torch_puts_it("permute", order, {}, axis, SIZES)
    for args, kwargs in (
        ((tensor, *order), {}),
        ((tensor, order), {}),
        ((tensor,), {"dims": order}),
        ((tensor, *negative), {}),
    ):
        assert moved_axis("permute", args, kwargs, axis) == expected


@pytest.mark.parametrize("axis", [0, 1])
def test_a_matrix_is_turned(axis: int) -> None:
    assert moved_axis("t", (torch.empty(3, 5),), {}, axis) == where_torch_puts_it("t", (), {}, axis, (3, 5))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 1, 2, 3, -1, -2, -4])
def test_a_dimension_is_put_in(at: int, axis: int) -> None:
    tensor = torch.empty(SIZES)
    expected = where_torch_puts_it("unsqueeze", (at,), {}, axis, SIZES)
    assert moved_axis("unsqueeze", (tensor, at), {}, axis) == expected
    assert moved_axis("unsqueeze", (tensor,), {"dim": at}, axis) == expected


def test_other_functions_say_nothing() -> None:
    assert moved_axis("add", (torch.empty(3, 5), 1), {}, 0) is None
    assert moved_axis("t", (torch.empty(3),), {}, 0) is None


@pytest.mark.parametrize(
    ("name", "kwargs", "expected"),
    [
        ("add_", {}, True),
        ("__iadd__", {}, True),
        ("__setitem__", {}, True),
        ("relu", {"inplace": True}, True),
        ("relu", {"inplace": False}, False),
        ("__add__", {}, False),
        ("add", {}, False),
    ],
)
def test_what_overwrites_its_argument(name: str, kwargs: dict[str, bool], expected: bool) -> None:
    assert is_in_place(name, kwargs) is expected
