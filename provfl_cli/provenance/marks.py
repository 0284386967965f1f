"""What the recorder notes on tensors, and what it knows of torch's functions by their names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .calls import Call, Weight

_MARK = "_provfl_mark"


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


# Functions applied to each element alone; a layer's activation is looked for behind them.
ELEMENTWISE = words(
    "add sub rsub mul div truediv true_divide neg clone contiguous to float double half bfloat16 type dropout "
    "dropout1d dropout2d dropout3d alpha_dropout feature_dropout batch_norm iadd isub imul itruediv square pow "
    "sqrt rsqrt abs exp clamp clip addcmul addcdiv detach identity"
)
# Functions that change the shape and keep the elements in their order: transformers' Conv1D computes on `[n * T, O]`
# and gives `[n, T, O]`, which is where its activation function finds it.
RESHAPES = words("view view_as reshape reshape_as flatten unflatten squeeze unsqueeze")
ACTIVATIONS = words(
    "relu relu6 leaky_relu elu selu celu gelu silu mish softplus sigmoid tanh hardtanh hardswish hardsigmoid "
    "hardshrink softshrink tanhshrink softsign logsigmoid log_sigmoid threshold rrelu prelu"
)
# Functions linear in their only tensor: a parameter seen through them is still that parameter.
VIEWS = words(
    "chunk split tensor_split unbind getitem view reshape flatten unflatten transpose permute movedim swapaxes "
    "swapdims squeeze unsqueeze narrow select t contiguous to float double clone expand embedding T mT H mH neg "
    "index_select"
)
# Functions that make numbers of a tensor, by which the model's own code may then decide.
NUMBERS = words("item tolist numpy __array__ __bool__ __int__ __float__ __index__")
_ACTIVATION_FILES = ("torch.nn.modules.activation", "transformers.activations")
_NO_ACTIVATIONS = words("MultiheadAttention GLU Softmax Softmin LogSoftmax Softmax2d LinearActivation")
_IN_PLACE_DUNDERS = frozenset(("__iadd__", "__isub__", "__imul__", "__itruediv__", "__setitem__"))
SILENT = frozenset(("size", "dim", "_set_grad_enabled", "is_floating_point", "numel", "stride", "__len__"))


@dataclass
class Mark:
    """A plain attribute of a tensor that the model is computing with.

    Attributes:
        data: whether it depends on the input.
        axis: along which axis the inputs of the batch lie; None when that cannot be told.
        pending: calls whose activation function is still to come.
        weight: for a parameter, or a function of parameters alone: of which.
        holders: calls that keep this tensor, and under which name.
    """

    data: bool = False
    axis: int | None = None
    pending: tuple[Call, ...] = ()
    weight: Weight | None = None
    holders: tuple[tuple[Call, str], ...] = ()


def mark_of(tensor: Tensor) -> Mark | None:
    """The mark of a tensor, if it has one."""
    return getattr(tensor, _MARK, None)


def set_mark(tensor: Tensor, mark: Mark) -> None:
    """Mark a tensor."""
    setattr(tensor, _MARK, mark)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Tensors among the arguments, and one level down in lists and tuples."""
    for argument in value:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from (inner for inner in argument if isinstance(inner, Tensor))


def is_in_place(name: str, kwargs: Any) -> bool:
    """Whether a function of that name overwrites its first argument."""
    return (name.endswith("_") and not name.endswith("__")) or name in _IN_PLACE_DUNDERS or bool(kwargs.get("inplace"))


def is_activation(module: nn.Module) -> bool:
    """Whether a module is an activation function of torch or transformers: one, whatever it computes inside."""
    known = (k.__name__ for k in type(module).__mro__ if k.__module__ in _ACTIVATION_FILES)
    return next(known, "Softmax") not in _NO_ACTIVATIONS


def mark_inputs(tensors: list[Tensor]) -> None:
    """Say that these tensors are the inputs of the batch, along their first axis."""
    for tensor in tensors:
        set_mark(tensor, Mark(True, 0))
