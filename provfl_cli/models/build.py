"""From a model's configuration to its module, initialised by the seed alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from ..config.lora import Lora
from ..config.schema import Model
from ..config.targets import check_call, imported_function
from ..data.federated import Dialogues, Form, Pictures, Texts
from ..errors import InputError, brief, did_you_mean
from ..imports import later
from ..seeds import derived_seed
from .adapter import adapted

if TYPE_CHECKING:
    import torch
    from torch import nn
else:
    torch = later("torch")


KEY = "model._target_"
FORMS: dict[str, type[Form]] = {"image": Pictures, "text": Texts, "dialogue": Dialogues}


def check_function(model: Model) -> None:
    """Raise InputError where `model.target` is no function that could build a model; nothing is called.

    To be asked before data are loaded: what only a call can tell, `build` says.
    """
    form = FORMS[model.input]
    values = {"classes": 2, **dict.fromkeys(field.name for field in fields(form))}
    _call(model, values)


def build(
    model: Model,
    form: Form,
    classes: int,
    seed: int,
    lora: Lora | None = None,
    base: Mapping[str, torch.Tensor] | None = None,
) -> nn.Module:
    """Call `model.target` with the number of classes, the fields of `form` and `model.options`.

    A function that takes `pretrained` also gets `model.pretrained`. With `model.adapter` it gets adapters, with the
    settings `lora`. Weights are drawn from `seed`, or
    those of `base`, before adapters are added; the process's own random state stays as it was.

    Raises:
        InputError: no such function, one that cannot be called so or returns no module, an option that it does not
            take, or what the function itself refuses.
    """
    function, values = _call(model, {"classes": classes, **asdict(form)})
    if isinstance(form, Pictures) and form.image_size < model.min_image_size:
        raise InputError(
            f"model={model.name} reads pictures of {model.min_image_size} pixels or more, not {form.image_size}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module = function(**values)
        except SystemExit as error:  # else the whole command would end, and as if all were well
            raise InputError(f"{KEY}={model.target}: calling it failed ({brief(error)}): {_asks(model)}") from error
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"{KEY}={model.target}: returns {type(module).__name__}, no torch.nn.Module: {_asks(model)}")
    if base is not None:
        module.load_state_dict(base)
    if model.adapter is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "adapter"))
            module = adapted(module, lora or Lora(), model.name)
    return module


def _call(model: Model, arguments: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function that `model` names, and what it is to be called with."""
    asks = _asks(model)
    function = imported_function(model.target, KEY, asks)
    taken = inspect.signature(function).parameters
    arguments = arguments | ({"pretrained": model.pretrained} if "pretrained" in taken else {})
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        settable = list(model.options)
    else:
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        options = [name for name, parameter in taken.items() if parameter.kind in named and name not in arguments]
        settable = [*options, *(["pretrained"] if "pretrained" in taken else [])]
        check_call(function, model.target, KEY, arguments | dict.fromkeys(options), asks)
    for option in model.options:
        if option not in settable or option in arguments:
            known = did_you_mean(option, settable) if settable else "it has no options"
            raise InputError(f"model.{option}: model={model.name} has no such option, {known}")
    values = {**arguments, **model.options}
    check_call(function, model.target, KEY, values, asks)
    return function, values


def _asks(model: Model) -> str:
    """What a model function takes and returns, in words."""
    form = FORMS[model.input]
    taken = ", ".join(sorted({"classes", *(field.name for field in fields(form))}))
    return f"a model function takes ({taken}) by name, and options, and returns a torch.nn.Module"
