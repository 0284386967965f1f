"""What is asked of `trace`, looked at before anything is computed: one line says what is wrong, and what to give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..coverage import printable
from ..errors import InputError, RunError, did_you_mean
from ..fusion.state_dicts import not_finite
from .lineage import LineageRound
from .merged import prepare
from .outputs import tensor_of
from .settings import CLASS_TARGETS, TARGETS, Provenance, preset
from .shared_part import fitted
from .stack import Source

_ROUND = ("clients", "decomposition", "weights", "previous")


def checked_settings(settings: Provenance | str | None) -> Provenance:
    """The settings: a preset by its name, None for `provfl`.

    Raises:
        InputError: there is no such preset, or it is something else.
    """
    if settings is None or isinstance(settings, str):
        return preset("provfl" if settings is None else settings)
    if not isinstance(settings, Provenance):
        raise InputError(
            f"settings: is a {type(settings).__name__}, give the name of a preset, such as 'faithful', or "
            "what provfl_cli.provenance.preset makes of one"
        )
    return settings


def checked_source(model: Any, source: Any) -> Source:
    """The round by the model's own names for its tensors (`shared_part.fitted`).

    Raises:
        InputError: `source` is no round, or `model` no module that takes its weights.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model: is a {type(model).__name__}, give a torch.nn.Module")
    if not isinstance(source, LineageRound) and not all(hasattr(source, name) for name in _ROUND):
        raise InputError(
            f"source: is a {type(source).__name__}, give a round: from_state_dicts(…), or a stored one (read_round)"
        )
    parameters = dict(model.named_parameters())
    if not parameters:
        raise InputError("model: has no parameters, so there is nothing that clients could have changed")
    if any(tensor.device.type == "meta" for tensor in parameters.values()):
        raise InputError("model: is on the device meta, which holds no numbers: model.to_empty(device='cpu')")
    if not any(tensor.is_floating_point() for tensor in parameters.values()):
        raise InputError("model: has no parameter of floating-point numbers")
    prepare(model, source)
    part: Source = fitted(model, source)
    shared = [tensor for name, tensor in parameters.items() if name in part.weights()]
    if shared and all(not (tensor.is_floating_point() or tensor.is_complex()) for tensor in shared):
        raise InputError(
            "source: of the model's parameters the round holds whole numbers alone, which have no gradient"
        )
    if not shared:
        raise InputError("source: the round holds no parameter of the model, only tensors that are not attributed")
    return part


def checked_inputs(inputs: Any) -> dict[str, Tensor]:
    """Inputs by argument name, `""` for the only positional one.

    Raises:
        InputError: they are no tensors, none, of different numbers, or not finite.
    """
    named = dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}
    if not named:
        raise InputError("inputs: there is none, give a tensor [inputs, …], or tensors by argument name")
    for name, tensor in named.items():
        what = f"inputs[{name!r}]" if name else "inputs"
        if not isinstance(tensor, Tensor):
            raise InputError(
                f"{what}: is a {type(tensor).__name__}, give a tensor [inputs, …] (torch.as_tensor makes one)"
            )
        if tensor.device.type == "meta":
            raise InputError(f"{what}: is on the device meta, give a tensor that holds its numbers")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            kind = "quantized" if tensor.is_quantized else "nested" if tensor.is_nested else str(tensor.layout)
            way = "dequantize()" if tensor.is_quantized else "to_padded_tensor(0)" if tensor.is_nested else "to_dense()"
            raise InputError(f"{what}: is {kind.removeprefix('torch.')}, give a dense tensor [inputs, …]: .{way}")
        if not tensor.dim() or not tensor.shape[0]:
            raise InputError(f"{what}: has the shape {list(tensor.shape)}, give at least one input: [inputs, …]")
        check_finite_inputs(tensor, what)
    sizes = {name: len(tensor) for name, tensor in named.items()}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{printable(str(name))} {size}" for name, size in sizes.items())
        raise InputError(f"inputs: of different numbers of inputs ({said}), give as many in each")
    return named


def check_finite_inputs(inputs: Tensor, what: str) -> None:
    """Raise InputError where an input holds NaN or infinity; it says which is the first."""
    if said := not_finite(inputs):
        good = inputs.isfinite().reshape(len(inputs), -1).all(1)
        first = int((~good).nonzero()[0])
        raise InputError(f"{what}: input {first} holds {said}: give finite numbers, or leave these inputs out")


def checked_wanted(kind: str, wanted: Any, count: int, device: torch.device) -> Tensor | None:
    """What to explain of each input: int64 `[inputs]`, classes or numbers of outputs; of `mse` `[inputs, numbers]`.

    None: the default of the kind, such as the predicted classes.

    Raises:
        InputError: they are not that for each of `count` inputs. How many classes there are is seen later.
    """
    if wanted is None:
        return None
    accepted = f"give a whole number for each of the {count} inputs, or None for the predicted classes"
    if kind == "mse":
        accepted = f"give what the model should put out for each of the {count} inputs, [{count}, …]"
    elif kind == "output":
        accepted = (
            f"give for each of the {count} inputs which number of the output is explained, or None for the only one"
        )
    try:
        numbers = torch.as_tensor(wanted)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"classes: is a {type(wanted).__name__} that is no list of numbers, {accepted}") from None
    if kind == "mse":
        if numbers.is_complex() or numbers.dtype == torch.bool or numbers.shape[:1] != (count,):
            raise InputError(f"classes: is {list(numbers.shape)} of type {numbers.dtype}, {accepted}")
        if said := not_finite(numbers):
            raise InputError(f"classes: holds {said}, {accepted}")
        return numbers.to(device, torch.float64 if device.type != "mps" else torch.float32).reshape(count, -1)
    if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise InputError(f"classes: is of type {numbers.dtype}, {accepted}")
    if numbers.shape != (count,):
        raise InputError(f"classes: has the shape {list(numbers.shape)}, {accepted}")
    if int(numbers.min()) < 0:
        raise InputError(f"classes: holds {int(numbers.min())}, classes count from 0: {accepted}")
    return numbers.to(device, torch.int64)


def checked_targets(targets: Any) -> Sequence[tuple[str, Any]]:
    """Pairs of a kind of target and classes; InputError where they are something else."""
    if isinstance(targets, str) or not isinstance(targets, Sequence) or not targets:
        raise InputError("targets: give a list of pairs, such as [('centred', None), ('margin', None)]")
    for pair in targets:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(f"targets: {pair!r} is no pair of a kind and classes, such as ('centred', None)")
        if pair[0] not in TARGETS:
            raise InputError(f"targets: {pair[0]!r} is no kind of target, {did_you_mean(str(pair[0]), TARGETS)}")
    if len({pair[0] in CLASS_TARGETS for pair in targets}) > 1:
        raise InputError(
            f"targets: {' and '.join(pair[0] for pair in targets)}: of classes, or without, not both at once"
        )
    return targets


def checked_sample(layer_sample: Any) -> int:
    """For how many inputs layers are kept; InputError where that is no whole number from 0."""
    if not isinstance(layer_sample, int) or isinstance(layer_sample, bool) or layer_sample < 0:
        raise InputError(f"layer_sample={layer_sample!r}: a whole number from 0, of the first inputs")
    return layer_sample


def explain_failure(model: nn.Module, inputs: Mapping[str, Tensor], error: Exception, where: str = "") -> None:
    """Raise where the model, asked plainly, cannot compute the inputs either, or makes no logits of them.

    Args:
        model: in evaluation mode, on its device.
        inputs: by argument name.
        error: what went wrong while it was traced.
        where: in which layer, in words.

    Raises:
        InputError: it cannot compute them.
        RunError: what it gives is no tensor.
    """
    device = next(model.parameters()).device
    few = {name: tensor[:1].to(device, copy=True) for name, tensor in inputs.items()}
    shapes = ", ".join(
        f"{f'{name} ' if name else ''}{list(tensor.shape)} of type {tensor.dtype}" for name, tensor in inputs.items()
    )
    try:
        with torch.no_grad():
            output = model(few[""]) if "" in few else model(**few)
    except Exception as plain:
        reason = " ".join(str(plain).split())[:300]
        raise InputError(
            f"the model cannot compute these inputs, {shapes} ({where}{reason}): give them as it reads them"
        ) from error
    try:
        tensor_of(output)
    except RunError as none:
        raise none from error
