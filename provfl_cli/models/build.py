"""From a model's configuration to its module, initialised by the seed alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..config.schema import Model
from ..data.federated import Form, Pictures
from ..errors import InputError, did_you_mean

if TYPE_CHECKING:
    from torch import nn


def build(model: Model, form: Form, classes: int, seed: int) -> nn.Module:
    """Call `model.target` with the number of classes, the fields of `form` and `model.options`.

    A function that takes `pretrained` also gets `model.pretrained`. Weights are drawn from `seed`; the process's own
    random state stays as it was.

    Raises:
        InputError: no such function, an option that it does not take, or what the function itself refuses.
    """
    import torch

    function = _function(model.target)
    taken = inspect.signature(function).parameters
    given = {"classes": classes, **asdict(form)} | ({"pretrained": model.pretrained} if "pretrained" in taken else {})
    options = [name for name in taken if name not in given]
    settable = [*options, *(["pretrained"] if "pretrained" in taken else [])]
    for option in model.options:
        if option not in options:
            known = did_you_mean(option, settable) if settable else "it has no options"
            raise InputError(f"model.{option}: model={model.name} has no such option, {known}")
    if isinstance(form, Pictures) and form.image_size < model.min_image_size:
        raise InputError(
            f"model={model.name} reads pictures of {model.min_image_size} pixels or more, not {form.image_size}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return function(**given, **model.options)


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
