"""What the user names on the command line as MODULE:NAME, called or taken as it is: a model, or inputs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..config.targets import working_folder_searched
from ..errors import InputError, brief

READY = (nn.Module, Tensor, dict, DataLoader, Dataset)  # values, not what makes them


def called(spec: str, option: str) -> Any:
    """What the function that `spec`, MODULE:NAME, names returns; of a class an instance, of a value the value itself.

    Modules of the working folder are found too. A class that a function returns is built as well.

    Raises:
        InputError: there is nothing of that name, or calling it fails.
    """
    module, _, name = spec.partition(":")
    with working_folder_searched():
        try:
            named: Any = getattr(import_module(module), name)
        except (Exception, SystemExit) as error:  # whatever a module does when it is imported
            raise InputError(f"{option} {spec}: cannot be imported ({brief(error)}): give MODULE:FUNCTION") from error
    try:
        value = named if isinstance(named, READY) else named()
        return value() if isinstance(value, type) and issubclass(value, nn.Module | Dataset) else value
    except (Exception, SystemExit) as error:
        asks = ": a class that needs arguments is built by a function" if isinstance(named, type) else ""
        raise InputError(f"{option} {spec}: calling it failed ({brief(error)}){asks}") from error


def called_model(spec: str) -> nn.Module:
    """The module that `--model` names; InputError where it is something else."""
    module = called(spec, "--model")
    if not isinstance(module, nn.Module):
        raise InputError(f"--model {spec}: returns {type(module).__name__}, no torch.nn.Module")
    return module
