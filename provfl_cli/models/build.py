"""From a model's configuration to its module, initialised by the seed alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..config.schema import Model
from ..errors import InputError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

GIVEN = ("channels", "classes", "image_size")  # what the data decide; every model function takes these three


def build(model: Model, channels: int, classes: int, image_size: int, seed: int) -> nn.Module:
    """Call `model.target` with (channels, classes, image_size, **model.options), weights drawn from `seed`.

    The process's own random state stays as it was.

    Raises:
        InputError: no such function, an option that it does not take, or what the function itself refuses.
    """
    import torch

    function = _function(model.target)
    options = [name for name in inspect.signature(function).parameters if name not in GIVEN]
    for option in model.options:
        if option not in options:
            known = did_you_mean(option, options) if options else "it has no options"
            raise InputError(f"model.{option}: model={model.name} has no such option, {known}")
    if image_size < model.min_image_size:
        raise InputError(
            f"model={model.name} reads pictures of {model.min_image_size} pixels or more, not {image_size}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return function(channels, classes, image_size, **model.options)


def _function(target: str) -> Callable[..., Any]:
    """The function of that dotted name."""
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"model._target_={target}: cannot be imported ({error})") from None
    if not callable(found):
        raise InputError(f"model._target_={target}: not a function")
    return found
