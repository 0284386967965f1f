"""What a dotted name stands for: imported, and refused in one line where it cannot serve."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import InputError, brief

# What the code that uses a part asks of it, and the file whose kind it is.
ASKED: Mapping[str, tuple[str, ...]] = {
    "partition": (
        "partitioner",
        "min_examples_per_client",
        "min_examples_per_label",
        "max_examples_per_client",
        "check",
    ),
    "injection": (
        "apply",
        "acts",
        "returned",
        "check",
        "fits",
        "seen_in",
        "attacking",
        "attacks",
        "attack_epochs",
        "trigger_of",
        "twin",
        "until",
    ),
    "fusion": (
        "shares",
        "scale",
        "correct_gradients",
        "decay",
        "gain",
        "check",
        "needs_steps",
        "averages",
        "sums_products",
        "client_state",
        "fixed",
    ),
    "privacy": ("clipped", "noise", "next_state", "privatise", "spent", "private", "check"),
    "attribution": ("attribute", "check"),
    "tracker": ("start", "check"),
}


@contextmanager
def working_folder_searched() -> Iterator[None]:
    """Within the context modules that lie in the working folder are found too: for names that the user answers for."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)


def imported(target: str, key: str) -> Any:
    """What the dotted name `target`, found at `key`, stands for.

    Raises:
        InputError: its module cannot be imported, for whatever reason, or has nothing of that name.
    """
    module, _, name = target.rpartition(".")
    if not module:
        raise InputError(f"{key}={target}: cannot be imported (it is no dotted name, such as package.module.name)")
    try:
        return getattr(import_module(module), name)
    except (Exception, SystemExit) as error:  # whatever somebody's module does when it is imported
        raise InputError(f"{key}={target}: cannot be imported ({brief(error)})") from error


def imported_part(target: str, group: str) -> type:
    """The dataclass that `group._target_` names, such as a fusion.

    Raises:
        InputError: as `imported`, or it is no dataclass, or has not what is asked of this group.
    """
    key, kind = f"{group}._target_", group.partition(".")[0]
    part = imported(target, key)
    if not (isinstance(part, type) and is_dataclass(part)):
        raise InputError(f"{key}={target}: not a dataclass (provfl ls {kind} lists what there is)")
    fields = set(getattr(part, "__dataclass_fields__", ()))
    missing = [name for name in ASKED[kind] if not hasattr(part, name) and name not in fields]
    if missing:
        raise InputError(f"{key}={target}: has no {missing[0]}, which is asked of {kind} (provfl ls {kind})")
    return part


def imported_function(target: str, key: str, asks: str) -> Callable[..., Any]:
    """The function that `key` names; `asks` says what such a function takes and returns.

    Raises:
        InputError: as `imported`, or it is no function that could do so: one of Python's own is never called.
    """
    function: Callable[..., Any] = imported(target, key)
    if not callable(function):
        raise InputError(f"{key}={target}: is no function: {asks}")
    try:
        inspect.signature(function)
        known = not inspect.isbuiltin(function)
    except (TypeError, ValueError):
        known = False
    if not known:
        raise InputError(f"{key}={target}: is written in C, and no function of that kind: {asks}")
    return function


def check_call(function: Callable[..., Any], target: str, key: str, values: Mapping[str, Any], asks: str) -> None:
    """Raise InputError unless `function` can be called with these values by name; nothing is called."""
    try:
        inspect.signature(function).bind(**values)
    except TypeError as error:
        raise InputError(f"{key}={target}: cannot be called so ({error}): {asks}") from None
