"""Tensors that others hand over: whether they are tensors, all of one model, and finite. Every door asks here.

What is wrong is said in the words of the door: `what` is what the user called these tensors, such as
`--previous before.safetensors` or `clients[2]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

from ..coverage import printable
from ..errors import InputError
from ..imports import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")

LARGEST_COUNT = 10**12  # training examples of one client


def require_state_dict(state_dict: Any, what: str) -> dict[str, Tensor]:
    """`state_dict` as plain tensors on the CPU, by name, without gradients.

    Raises:
        InputError: it is no mapping of names to dense tensors, or an empty one.
    """
    if not isinstance(state_dict, Mapping):
        hint = "model.state_dict()" if isinstance(state_dict, torch.nn.Module) else "a state dict, names and tensors"
        raise InputError(f"{what}: is {_article(state_dict)}, give {hint}")
    if not state_dict:
        raise InputError(f"{what}: holds no tensor, give a state dict as model.state_dict() makes it")
    made: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        if not isinstance(name, str):
            raise InputError(f"{what}: holds the name {name!r}, names of tensors are texts")
        if not isinstance(tensor, torch.Tensor):
            raise InputError(
                f"{what}: {printable(name)} is {_article(tensor)}, give a tensor (torch.as_tensor makes one)"
            )
        if torch.nn.parameter.is_lazy(tensor):
            raise InputError(
                f"{what}: {printable(name)} has no shape yet, because a lazy layer takes it from the first input that "
                "it sees: run the model once on an input before its state_dict() is taken"
            )
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
            kind = "on the device meta" if tensor.device.type == "meta" else "sparse or quantized"
            raise InputError(f"{what}: {printable(name)} is {kind}, give a dense tensor that holds its numbers")
        made[name] = tensor.detach().cpu()
    return made


def require_same(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], what: str, other: str, mixed: bool = False
) -> None:
    """Raise InputError unless `tensors` have the names, shapes and types of those `expected`, called `other`.

    `mixed`: numbers with a fraction may have another type of such numbers.
    """
    missing, strange = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing:
        more = f" (nor {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"{what}: has no tensor {printable(missing[0])}, which {other} has{more}")
    if strange:
        more = f" (nor {len(strange) - 1} more)" if len(strange) > 1 else ""
        raise InputError(f"{what}: has a tensor {printable(strange[0])}, which {other} has not{more}")
    for name, tensor in expected.items():
        actual = tensors[name]
        if actual.shape != tensor.shape:
            raise InputError(
                f"{what}: {printable(name)} is {list(actual.shape)}, in {other} it is {list(tensor.shape)}"
            )
        if actual.dtype != tensor.dtype and not (mixed and actual.is_floating_point() and tensor.is_floating_point()):
            raise InputError(f"{what}: {printable(name)} is {actual.dtype}, in {other} it is {tensor.dtype}")


def require_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise InputError where a tensor holds NaN or infinity; it says which, and how many of them."""
    for name, tensor in tensors.items():
        if said := not_finite(tensor):
            raise InputError(f"{what}: {printable(name)} holds {said}: numbers that are not finite cannot be traced")


def not_finite(tensor: Tensor) -> str:
    """How many numbers of a tensor are not finite, in words; empty where all are."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return ""
    tensor = computable(tensor)
    good = tensor.isfinite()
    if bool(good.all()):
        return ""
    kind = "NaN" if bool(tensor.isnan().any()) else "infinity"
    return f"{kind} ({int((~good).sum()):,} of {tensor.numel():,} numbers are not finite)"


def computable(tensor: Tensor) -> Tensor:
    """The tensor in a type in which torch computes and compares: of 8 bits with a fraction it only converts."""
    return tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize == 1 else tensor


def require_examples(examples: Any, clients: Sequence[str]) -> list[int]:
    """Numbers of training examples, one for each of the `clients`, as they are called.

    Raises:
        InputError: they are not as many, not whole, negative, too large, or all 0.
    """
    try:
        values = list(examples.tolist() if hasattr(examples, "tolist") else examples)
    except TypeError:
        raise InputError(
            f"examples: is {_article(examples)}, give a list with each client's number of training examples"
        ) from None
    if len(values) != len(clients):
        raise InputError(f"examples: {len(values)} numbers for {len(clients)} clients, give one for each client")
    counts = []
    for value, client in zip(values, clients, strict=True):
        try:
            count = index(value)
        except TypeError:
            count = -1
        if isinstance(value, bool) or not 0 <= count <= LARGEST_COUNT:
            raise InputError(
                f"examples: {value!r} for {printable(client)}, accepted are whole numbers from 0 to {LARGEST_COUNT:,}"
            )
        counts.append(count)
    if not any(counts):
        raise InputError("examples: 0 for every client, so nobody has a share in the model: at least one needs some")
    return counts


def require_names(names: Any, count: int) -> tuple[str, ...]:
    """Names for `count` clients.

    Raises:
        InputError: they are no texts, not as many, empty, or there twice.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise InputError(f"names: is {_article(names)}, give a list with a text for each client")
    if len(names) != count:
        raise InputError(f"names: {len(names)} names for {count} clients, give one for each client")
    for position, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"names: {name!r} for clients[{position}], names are texts that say something")
        if name in names[:position]:
            raise InputError(f"names: {printable(name)} is there twice, clients need different names")
    return tuple(names)


def require_fits(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], what: str, other: str) -> None:
    """Raise InputError unless a model of the tensors `own`, called `what`, takes all `weights`, those of `other`.

    Their types may differ: they are converted.
    """
    missing, strange = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or strange:
        more = [f"no {printable(missing[0])} (of {len(missing)})"] if missing else []
        more += [f"{printable(strange[0])} (of {len(strange)}), which the model has not"] if strange else []
        raise InputError(f"{what}: is not the model that was recorded: {other} hold {', and '.join(more)}")
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise InputError(
                f"{what}: {printable(name)} is {list(tensor.shape)} in the model and {list(weights[name].shape)} "
                f"in {other}"
            )


def _article(value: Any) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
