"""What a function of the user's returns, named as MODULE:FUNCTION: a model, or inputs."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from ..config.targets import working_folder_searched
from ..errors import InputError, brief


def called(spec: str, option: str) -> Any:
    """What the function that `spec`, MODULE:FUNCTION, names returns; modules of the working folder are found too.

    Raises:
        InputError: there is no such function, or calling it fails; `option` is what the user named it by.
    """
    module, _, name = spec.partition(":")
    with working_folder_searched():
        try:
            function: Callable[[], Any] = getattr(import_module(module), name)
        except (Exception, SystemExit) as error:  # whatever a module does when it is imported
            raise InputError(f"{option} {spec}: cannot be imported ({brief(error)}): give MODULE:FUNCTION") from error
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise InputError(f"{option} {spec}: calling it failed ({brief(error)})") from error


def called_model(spec: str) -> nn.Module:
    """The module that the function named by `--model` returns; InputError where it returns something else."""
    module = called(spec, "--model")
    if not isinstance(module, nn.Module):
        raise InputError(f"--model {spec}: returns {type(module).__name__}, no torch.nn.Module")
    return module
