"""Tied copies: safetensors writes only one of the names of a tensor that a model uses twice; other formats write both.

Two tensors are taken for a tie where every file that holds both has them equal, neither all of one value: what is
initialised to zeros or ones is equal and no tie.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from ...fusion.state_dicts import computable

SAMPLED = 64  # numbers of a tensor by which equal ones are looked for


def ties(names: Sequence[Collection[str]], read: Callable[[int], Mapping[str, Tensor]]) -> dict[str, str]:
    """For each name that some file lacks and another holds: the name of its tied copy, which those that lack it hold.

    Args:
        names: of the tensors in each file of a round.
        read: reads one of them, by its position.
    """
    lacking = {
        name: [held for held in names if name not in held]
        for name in set().union(*names)
        if any(name not in held for held in names)
    }
    copies: dict[str, set[str]] = {}
    for position, held in enumerate(names):
        if lacking.keys() & set(held):
            for name, same in _copies(read(position), lacking).items():
                copies[name] = copies[name] & same if name in copies else same
    chosen = {
        name: [copy for copy in sorted(same) if all(copy in h for h in lacking[name])] for name, same in copies.items()
    }
    return {name: candidates[0] for name, candidates in sorted(chosen.items()) if candidates}


def filled(tensors: Mapping[str, Tensor], tied: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors, and those that are missing among them from their tied copies."""
    return {**{name: tensors[copy] for name, copy in tied.items() if copy in tensors}, **tensors}


def _copies(tensors: Mapping[str, Tensor], lacking: Collection[str]) -> dict[str, set[str]]:
    """For each of the lacking names among the tensors, the others that are equal to it."""
    alike: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in tensors.items():
        alike.setdefault(_sample(tensor), []).append(name)
    return {
        name: {other for other in group if other != name and _tied(tensors[name], tensors[other])}
        for group in alike.values()
        for name in group
        if name in lacking
    }


def _sample(tensor: Tensor) -> tuple[object, ...]:
    flat = tensor.flatten()
    step = max(1, flat.numel() // SAMPLED)
    return (tensor.shape, tensor.dtype, *flat[::step][:SAMPLED].tolist())


def _tied(tensor: Tensor, other: Tensor) -> bool:
    first, second = computable(tensor), computable(other)
    return first.numel() > 1 and torch.equal(first, second) and bool((first != first.flatten()[0]).any())
