"""Along which axis the inputs of a batch lie, behind the functions of torch that move axes about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .marks import ELEMENTWISE, mark_of, words

LOST = -1
"""Where a function takes the inputs of a batch apart, reorders them, or leaves some out."""

_REDUCTIONS = words(
    "sum mean amax amin max min logsumexp prod std var norm argmax argmin any all median nansum nanmean"
)
_ALONG = words("flip roll sort argsort topk gather take_along_dim index_select narrow cumsum cumprod")
_APART = words("masked_select nonzero take _pack_padded_sequence _pad_packed_sequence unique bincount")


def output_axis(plain: str, args: Any, kwargs: Any, tensors: list[Tensor], output: Tensor, batch: int) -> int | None:
    """Along which axis of the output the inputs of the batch lie; None when that cannot be told."""
    source = next((t for t in tensors if (m := mark_of(t)) is not None and m.data), None)
    if source is None:
        return 0
    mark = mark_of(source)
    assert mark is not None
    axis = mark.axis
    if axis is None:
        return None
    moved = moved_axis(plain, args, kwargs, axis, source, batch)
    if moved is not None:
        return None if moved == LOST else moved
    if plain not in ("reshape", "view", "flatten", "unflatten"):
        axis += max(0, output.dim() - source.dim()) if plain in ELEMENTWISE else 0
        kept = plain in ELEMENTWISE or output.dim() == source.dim()
        kept = kept or output.shape[: axis + 1] == source.shape[: axis + 1]
        if kept and output.dim() > axis and output.shape[axis] == batch:
            return axis
    if axis == 0 and output.dim() and output.shape[0] % batch == 0:
        return 0
    candidates = [i for i, size in enumerate(output.shape) if size == batch]
    return candidates[0] if len(candidates) == 1 else None


def repeated_axis(plain: str, output: Any, weights: list[Tensor], batch: int) -> int | None:
    """Along which axis a parameter is repeated for every input of the batch, if it is.

    Such as a class token, BERT's token types, or the initial state of a recurrent layer.
    """
    if plain == "embedding":
        return 0 if output.dim() > 2 and output.shape[0] == batch else None
    if plain not in ("expand", "expand_as", "repeat", "broadcast_to", "tile"):
        return None
    source = weights[0]
    shape = (1,) * (output.dim() - source.dim()) + tuple(source.shape)
    repeated = [i for i, size in enumerate(shape) if size == 1 and output.shape[i] == batch]
    if repeated and (repeated[0] == 0 or (repeated[0] == 1 and output.dim() == 3)):  # states: [layers, inputs, …]
        return repeated[0]
    if plain == "repeat" and output.dim() == source.dim() and source.dim() > 0:
        # heads of DeBERTa's positions, input by input
        return 0 if output.shape[0] == batch * source.shape[0] else None
    return None


def moved_axis(plain: str, args: Any, kwargs: Any, axis: int, source: Tensor, batch: int) -> int | None:
    """Where a function puts the axis of its first data argument; None: that has to be told from shapes.

    Args:
        plain: name of the function.
        args, kwargs: its arguments.
        axis: along which the inputs lie in `source`.
        source: the argument that depends on the inputs.
        batch: number of inputs.

    Returns:
        The axis in the output, or `LOST`.
    """
    dims = source.dim()
    numbers = [a for a in args[1:] if isinstance(a, int) and not isinstance(a, bool)]
    numbers += [v for k, v in kwargs.items() if k.startswith("dim") and isinstance(v, int)]
    if plain in ("transpose", "swapaxes", "swapdims") and len(numbers) == 2:
        a, b = (n % dims for n in numbers)
        return b if axis == a else a if axis == b else axis
    if plain == "t" and dims == 2:
        return 1 - axis
    if plain == "permute":
        order = numbers or list(args[1] if len(args) > 1 else kwargs["dims"])
        return [n % dims for n in order].index(axis)
    if plain in ("T", "H"):
        return dims - 1 - axis
    if plain in ("mT", "mH", "adjoint") and dims > 1:
        return {dims - 1: dims - 2, dims - 2: dims - 1}.get(axis, axis)
    if plain in ("movedim", "moveaxis") and len(numbers) == 2:
        old, place = (n % dims for n in numbers)
        order = [d for d in range(dims) if d != old]
        order.insert(place, old)
        return order.index(axis)
    if plain == "unsqueeze" and numbers:
        return axis + (numbers[0] % (dims + 1) <= axis)
    if batch == 1:  # nothing can be mixed up, and an axis of one number may go at any time
        return None
    if plain == "squeeze":
        gone = {n % dims for n in numbers} or set(range(dims))
        return axis - sum(d in gone and source.shape[d] == 1 for d in range(axis))
    if plain == "getitem" and args[0] is source:
        return _indexed(args[1] if isinstance(args[1], tuple) else (args[1],), axis, source)
    if plain in _APART:
        return LOST
    if plain in ("select", "unbind"):
        dim = numbers[0] % dims if numbers else 0
        return LOST if dim == axis else axis - (dim < axis)
    if plain in _ALONG and args[0] is source:
        along = _dims(plain, args, kwargs, dims)
        return LOST if axis in along else axis
    if plain == "stack":
        dim = numbers[0] % (dims + 1) if numbers else 0
        return axis + (dim <= axis)
    if plain in ("chunk", "split", "tensor_split"):
        dim = int(kwargs.get("dim", args[2] if len(args) > 2 else 0)) % dims
        return LOST if dim == axis else axis
    if plain in ("cat", "concat", "concatenate"):
        dim = int(kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))) % dims
        return LOST if dim == axis else axis
    if plain in _REDUCTIONS and args[0] is source and dims > 1:
        return _reduced(args, kwargs, axis, dims)
    return None


def _dims(plain: str, args: Any, kwargs: Any, dims: int) -> set[int]:
    """Dimensions along which a function of `_ALONG` reorders or cuts."""
    last = {"sort": -1, "argsort": -1, "topk": -1}
    place = {"topk": 2, "roll": 2}.get(plain, 1)
    dim = kwargs.get("dim", kwargs.get("dims", args[place] if len(args) > place else last.get(plain, 0)))
    return {int(d) % dims for d in (dim if isinstance(dim, Sequence) else (dim,))}


def _reduced(args: Any, kwargs: Any, axis: int, dims: int) -> int | None:
    """The axis behind a sum over some dimensions."""
    dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
    keep = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
    if not isinstance(dim, (int, list, tuple)) or isinstance(dim, bool) or not isinstance(keep, bool):
        return None
    reduced = {d % dims for d in ((dim,) if isinstance(dim, int) else dim)}
    if axis in reduced:
        return LOST
    return axis if keep else axis - sum(d < axis for d in reduced)


def _indexed(index: tuple[Any, ...], axis: int, source: Tensor) -> int | None:
    """The axis behind `source[index]`; `LOST` where the index picks or reorders inputs."""
    taken = sum(i.dim() if isinstance(i, Tensor) and i.dtype == torch.bool else 1 for i in index if _takes(i))
    plain = all(i is None or i is Ellipsis or isinstance(i, (int, slice)) for i in index)
    dim, moved = 0, 0
    for part in index:
        if part is None:
            moved += dim <= axis
        elif part is Ellipsis:
            dim += source.dim() - taken
        elif isinstance(part, slice):
            if dim == axis and part.indices(source.shape[axis]) != (0, source.shape[axis], 1):
                return LOST
            dim += 1
        elif isinstance(part, int) and not isinstance(part, bool):
            if dim == axis:
                return LOST
            moved -= dim < axis
            dim += 1
        else:  # tensors and lists of indices
            width = part.dim() if isinstance(part, Tensor) and part.dtype == torch.bool else 1
            if dim <= axis < dim + width and not _in_order(part, source.shape[axis]):
                return LOST
            dim += width
    return axis + moved if plain else None


def _takes(index: Any) -> bool:
    return index is not None and index is not Ellipsis


def _in_order(index: Any, size: int) -> bool:
    """Whether an index names all inputs in their order, as in `x[torch.arange(batch), last]`."""
    with torch._C.DisableTorchFunction():
        index = torch.as_tensor(index)
        if index.dtype == torch.bool or index.numel() != size:
            return False
        return bool((index.flatten() == torch.arange(size, device=index.device)).all())
