"""What a model puts out, as a trace reads it: logits of classes, or plain numbers where the target has no classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, RunError
from ..fusion.state_dicts import not_finite

Inputs = Tensor | Mapping[str, Tensor]
"""A tensor `[inputs, …]`, or tensors by argument name."""

CHUNK = 256  # inputs in a forward pass; fixed, since the size of a batch changes the last digits of a convolution


def output_of(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """What a model gives for a batch by argument name; the name `""` is the only positional argument.

    Raises:
        RunError: there is no tensor in it.
    """
    return tensor_of(model(batch[""]) if "" in batch else model(**batch))


def outputs_of(model: nn.Module, inputs: Inputs, device: torch.device, classes: bool) -> Iterator[Tensor]:
    """What a model makes of inputs with the weights that it holds, a part of them at a time, on its device.

    Args:
        model: in evaluation mode, on `device`.
        inputs: of any number.
        device: where to compute.
        classes: whether logits `[inputs, classes]` are wanted; else `[inputs, numbers]`.

    Raises:
        RunError: the model gives something else.
    """
    named = by_argument(inputs)
    with torch.inference_mode():
        for start in range(0, count_of(inputs), CHUNK):
            # A copy: a model may change its input in place.
            batch = {name: tensor[start : start + CHUNK].to(device, copy=True) for name, tensor in named.items()}
            output, size = output_of(model, batch), count_of(batch)
            yield logits_of_classes(output, size) if classes else numbers_of(output, size)


def by_argument(inputs: Inputs) -> dict[str, Tensor]:
    """Inputs by argument name, `""` for the only positional one."""
    return dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}


def count_of(inputs: Inputs) -> int:
    """How many inputs these are."""
    return len(inputs if isinstance(inputs, Tensor) else next(iter(inputs.values())))


def rows_of(inputs: Inputs, where: slice) -> Inputs:
    """Some of the inputs."""
    return inputs[where] if isinstance(inputs, Tensor) else {name: tensor[where] for name, tensor in inputs.items()}


def tensor_of(output: Any) -> Tensor:
    """The tensor in what a model gave: itself, its `logits`, the entry `logits` of a mapping, the first of a tuple.

        >>> tensor_of({"loss": torch.tensor(0.5), "logits": torch.ones(1, 2)})
        tensor([[1., 1.]])

    Raises:
        RunError: it is none of these.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if logits is None and isinstance(output, tuple | list) and output:
        logits = next((part for part in output if isinstance(part, Tensor) and part.dim()), None)
    if not isinstance(logits, Tensor):
        raise RunError(
            f"the model gave a {type(output).__name__}: a tensor of logits [inputs, classes] is needed, or what holds "
            "them as `logits`, or first"
        )
    return logits


def logits_of_classes(output: Tensor, size: int) -> Tensor:
    """Logits `[inputs, classes]`; of one logit `z` an input, that of a sigmoid, those of the classes 0 and 1: 0 and z.

        >>> logits_of_classes(torch.tensor([[2.0], [-1.0]]), 2)
        tensor([[ 0.,  2.],
                [ 0., -1.]])

    Raises:
        RunError: the output is neither, or is not finite.
    """
    if output.shape in ((size,), (size, 1)):
        output = output.reshape(size, 1)
        output = torch.cat([torch.zeros_like(output), output], 1)
    if output.shape[0:1] != (size,) or output.dim() != 2:
        raise RunError(
            f"the model gave {tuple(output.shape)} for {size} inputs: logits [inputs, classes] are needed; of a model "
            "without classes the target is output or mse"
        )
    return _finite(output, "logits")


def numbers_of(output: Tensor, size: int) -> Tensor:
    """All that the model put out for each input, `[inputs, numbers]`.

    Raises:
        RunError: there is not a part for each input, or it is not finite.
    """
    if output.shape[0:1] != (size,):
        raise RunError(f"the model gave {tuple(output.shape)} for {size} inputs: an output [inputs, …] is needed")
    return _finite(output.reshape(size, -1), "outputs")


def check_wanted(numbers: Tensor, kind: str, wanted: Tensor | None, classes: bool) -> None:
    """Raise InputError where what is to be explained is no part of `numbers`, the output or the logits of a batch."""
    width = numbers.shape[1]
    if kind == "mse":
        if wanted is not None and wanted.shape[1] != width:
            raise InputError(
                f"classes: the model puts out {width} numbers for each input, {wanted.shape[1]} are given to compare "
                "them with"
            )
        return
    if wanted is not None and int(wanted.max()) >= width:
        what = "tells" if classes else "puts out"
        unit = "classes apart" if classes else "numbers"
        raise InputError(f"classes: holds {int(wanted.max())}, the model {what} {width} {unit}: 0 to {width - 1}")
    if kind == "output" and wanted is None and width > 1:
        raise InputError(
            f"classes: the model puts out {width} numbers for each input: say which one is to be explained, 0 to "
            f"{width - 1}"
        )


def _finite(output: Tensor, what: str) -> Tensor:
    if said := not_finite(output.detach()):
        raise RunError(
            f"the model's {what} hold {said}, although its weights and inputs are finite: has training diverged, or is "
            "the type of its numbers too small?"
        )
    return output
