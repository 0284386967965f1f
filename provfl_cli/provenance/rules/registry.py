"""The registry of layer rules: by torch function, how the gradient of a recorded call is written as two factors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..calls import Call
from ..factors import Factor

Rule = Callable[[Call, Tensor], dict[str, Factor]]


@dataclass(frozen=True)
class RegisteredRule:
    """A rule, the names of its function's positional arguments, and what its output holds beside the parameters."""

    arguments: tuple[str, ...]
    rule: Rule
    offset: Callable[[Call], Tensor] | None = None


RULES: dict[Callable[..., Any], RegisteredRule] = {}


def rule(
    *functions: Callable[..., Any], arguments: str, offset: Callable[[Call], Tensor] | None = None
) -> Callable[[Rule], Rule]:
    """Register a layer rule for torch functions whose positional arguments are named `arguments`.

    A rule takes the call and `g`, the masked gradient of the target in the call's output with the inputs in front, and
    returns a factor of the per-example gradient for each argument that may be a parameter. `offset` gives the part of
    the output that is there without the parameters (what a parameter is added to), inputs in front.
    """

    def register(function: Rule) -> Rule:
        for torch_function in functions:
            RULES[torch_function] = RegisteredRule(tuple(arguments.split()), function, offset)
        return function

    return register
