"""Calls that take tensors in lists, or return several: seen as functions of single tensors that return one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten


def flat_arguments(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A call with every tensor an argument of its own.

    Returns:
        The function of the flat arguments, and these by number.
    """
    leaves, form = tree_flatten((tuple(args), dict(kwargs)))

    def flat(*values: Any) -> Any:
        positional, named = tree_unflatten(list(values), form)
        return function(*positional, **named)

    flat.__name__ = function.__name__
    return flat, {str(i): leaf for i, leaf in enumerate(leaves)}


def floating(output: Any) -> list[Tensor]:
    """The tensors of a function's output that may have a gradient."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def replaced(output: Any, tensors: Sequence[Tensor]) -> Any:
    """The output with other tensors in place of its floating ones, in order."""
    leaves, form = tree_flatten(output)
    new = iter(tensors)
    return tree_unflatten(
        [next(new) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf for leaf in leaves], form
    )


def in_one(outputs: Sequence[Tensor], axes: Sequence[int | None], batch: int, rows: Sequence[int]) -> Tensor:
    """Several tensors as one, `[inputs, numbers]`.

    Args:
        outputs: the tensors.
        axes: along which the inputs lie in each; only a single input may have None.
        batch: number of inputs that the call was recorded with.
        rows: the length of that axis then; a multiple of `batch`.
    """
    parts = []
    for tensor, axis, length in zip(outputs, axes, rows, strict=True):
        if batch == 1 or axis is None:
            parts.append(tensor.reshape(1, -1))
        else:
            inputs = tensor.shape[axis] * batch // length
            parts.append(tensor.movedim(axis, 0).reshape(inputs, -1))
    return torch.cat(parts, 1)


def apart(merged: Tensor, outputs: Sequence[Tensor], axes: Sequence[int | None], batch: int) -> list[Tensor]:
    """The tensors that `in_one` made `merged` of: so one hook on it sees the gradients of all of them."""
    parts = []
    for piece, tensor, axis in zip(merged.split([t.numel() // batch for t in outputs], 1), outputs, axes, strict=True):
        if batch == 1 or axis is None:
            parts.append(piece.reshape(tensor.shape).clone())
        else:
            front = tensor.movedim(axis, 0).shape
            parts.append(piece.reshape(front).movedim(0, axis).clone())
    return parts


def joined(
    function: Callable[..., Any], axes: Sequence[int | None], batch: int, rows: Sequence[int]
) -> Callable[..., Any]:
    """`function`, returning what it returns in one tensor (`in_one`)."""

    def single(*arguments: Any, **named: Any) -> Tensor:
        return in_one(floating(function(*arguments, **named)), axes, batch, rows)

    single.__name__ = function.__name__
    return single
