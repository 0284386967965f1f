"""One recorded call of a torch function that took parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class TooLarge(Exception):
    """A batch has to be made smaller: its activations take more memory than they may."""


class Entangled(TooLarge):
    """A batch has to be made smaller: it cannot be told which part of a tensor belongs to which of its inputs."""


@dataclass(frozen=True)
class Weight:
    """Parameters as a call received them: by name, after `view`, a function of them such as a slice or a weight norm.

    `view` maps one tensor for each name to what the call saw; None: the one parameter itself. `linear` says whether it
    is linear in them; where it is not, clients count to first order.
    """

    names: tuple[str, ...]
    view: Callable[..., Tensor] | None = None
    linear: bool = True


@dataclass(eq=False)
class Call:
    """One use of parameters: `a = W * z + b`, or any other function of data and parameters.

    Attributes:
        function: the torch function that was called.
        arguments: its arguments by name (rules name them; others are numbered); the first `positional` by position.
        weights: which of them are parameters.
        axes: batch axis of each tensor argument that depends on the input.
        output: what it returned, detached, several tensors in one (`nested.in_one`); `axis` is its batch axis.
        batch: number of inputs.
        layer: name of the module that it belongs to.
        mask: neurons that take part, in the shape of `output`; None: all.
        first_factor: of the B of a LoRA layer that is traced as a product: the call of its A; None: no such layer.
        in_product: whether it is that call of an A, which counts with its B.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]
    positional: int
    weights: dict[str, Weight]
    axes: dict[str, int | None]
    output: Tensor
    axis: int | None
    batch: int
    layer: str
    mask: Tensor | None = None
    masked: bool = False
    first_factor: Call | None = None
    in_product: bool = False
    versions: dict[str, int] = field(default_factory=dict)

    def examples(self, tensor: Tensor, axis: int | None) -> Tensor:
        """`tensor` with the inputs of the batch in front: `[batch, …]`; rows flattened batch-first are regrouped.

        Raises:
            Entangled: it cannot be told which part of it belongs to which input; never for a single input.
        """
        if axis is not None and axis < tensor.dim() and tensor.shape[axis] == self.batch:
            return tensor.movedim(axis, 0)
        if self.batch == 1:  # all of it belongs to the only input
            axis = 0 if axis is None or axis >= tensor.dim() else axis
            return tensor.movedim(axis, 0).unsqueeze(0) if tensor.dim() else tensor.unsqueeze(0)
        if axis is not None and axis < tensor.dim() and tensor.shape[axis] and tensor.shape[axis] % self.batch == 0:
            rows = tensor.shape[axis] // self.batch
            front = tensor.movedim(axis, 0)
            return front.reshape(self.batch, rows, *front.shape[1:])
        raise Entangled(
            f"layer {self.layer!r} ({function_name(self.function)}): {tuple(tensor.shape)} of {self.batch} inputs"
        )

    def release(self) -> None:
        """Let go of the tensors: the call has been contracted."""
        self.arguments.clear()
        self.output, self.mask, self.first_factor = self.output.new_empty(0), None, None

    def data(self, name: str) -> Tensor:
        """The data argument `name` with the inputs of the batch in front."""
        return self.examples(self.arguments[name], self.axes.get(name))


def function_name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", str(function))


def sum_to(gradient: Tensor, shape: torch.Size) -> Tensor:
    """Undo broadcasting: sum `[batch, …]` over the dimensions along which a parameter of `shape` was repeated."""
    wanted = (1,) * (gradient.dim() - 1 - len(shape)) + tuple(shape)
    if len(wanted) > gradient.dim() - 1:  # the parameter has a leading 1 where the batch is
        wanted = wanted[len(wanted) - gradient.dim() + 1 :]
    repeated = [i + 1 for i, size in enumerate(wanted) if size == 1 and gradient.shape[i + 1] != 1]
    if repeated:
        gradient = gradient.sum(repeated, keepdim=True)
    return gradient.reshape(len(gradient), *shape)
