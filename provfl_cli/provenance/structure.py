"""A model's modules and parameters by name, walked through once for a whole trace."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import RunError

_GENERATORS = frozenset((torch.Generator, np.random.Generator, np.random.RandomState, random.Random))


@dataclass(frozen=True)
class Structure:
    """Modules, parameters and buffers of a model; a tied parameter stands under its first name.

    `parameters` are those that clients share; all others are `constants` of the model, which nothing is computed for.
    `own` are the parameters that a module itself holds, by module name, for those that hold any; `names` finds a
    parameter by identity, where it has a gradient at all. `generators` are those of random numbers that modules hold.
    """

    model: nn.Module
    modules: dict[str, nn.Module]
    parameters: dict[str, nn.Parameter]
    constants: dict[str, nn.Parameter]
    buffers: dict[str, Tensor]
    own: dict[str, frozenset[str]]
    names: dict[int, str]
    generators: dict[str, Any]

    @staticmethod
    def of(model: nn.Module, shared: Collection[str] | None = None) -> Structure:
        """Walk through `model`; `shared` are the names of the parameters that clients share, None: all."""
        modules = dict(model.named_modules())
        parameters: dict[str, nn.Parameter] = {}
        constants: dict[str, nn.Parameter] = {}
        buffers: dict[str, Tensor] = {}
        own: dict[str, frozenset[str]] = {}
        names: dict[int, str] = {}
        generators: dict[str, Any] = {}
        for prefix, module in modules.items():
            dot = f"{prefix}." if prefix else ""
            held = {f"{dot}{key}": value for key, value in module._parameters.items() if value is not None}
            for name, parameter in held.items():
                if names.setdefault(id(parameter), name) == name:
                    (parameters if shared is None or name in shared else constants)[name] = parameter
            followed = frozenset(names[id(parameter)] for parameter in held.values()).intersection(parameters)
            if followed:
                own[prefix] = followed
            generators.update((f"{dot}{key}", v) for key, v in module.__dict__.items() if type(v) in _GENERATORS)
            buffers.update((f"{dot}{key}", value) for key, value in module._buffers.items() if value is not None)
        whole = [parameter for parameter in parameters.values() if not parameter.is_floating_point()]
        for parameter in (*whole, *constants.values()):  # of whole numbers there is no gradient
            del names[id(parameter)]
        return Structure(model, modules, parameters, constants, buffers, own, names, generators)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy tensors into the model, by name.

        Raises:
            RunError: a tensor is missing, or of another shape.
        """
        with torch.no_grad():
            for name, tensor in (*self.parameters.items(), *self.buffers.items()):
                stored = weights.get(name)
                if stored is None and name not in self.parameters:
                    continue  # buffers that a model does not save, such as position numbers, or clients do not share
                if stored is None or stored.shape != tensor.shape:
                    problem = "missing" if stored is None else f"of shape {tuple(stored.shape)}"
                    raise RunError(f"{name} is {problem} in the weights, {tuple(tensor.shape)} in the model")
                tensor.copy_(stored)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Evaluation mode, and no gradients of parameters; both as before afterwards."""
        training = [module for module in self.modules.values() if module.training]
        every = (*self.parameters.values(), *self.constants.values())
        wanted = [parameter for parameter in every if parameter.requires_grad]
        for module in training:
            module.training = False
        for parameter in wanted:
            parameter.requires_grad_(False)
        try:
            with torch.enable_grad():
                yield
        finally:
            for module in training:
                module.training = True
            for parameter in wanted:
                parameter.requires_grad_(True)
