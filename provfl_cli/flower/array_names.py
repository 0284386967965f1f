"""Names for arrays that come without: those of a model, or a list of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..coverage import listed
from ..errors import InputError

COUNTER = "num_batches_tracked"
ASKED = "legacy.ProvenanceStrategy"

Shapes = Mapping[str, tuple[int, ...] | None]


@dataclass(frozen=True)
class ArrayNames:
    """In what order arrays may come, by how it is called: names and shapes; a shape that is None is not known."""

    orders: Mapping[str, Shapes]

    @staticmethod
    def of(model: Any, names: Sequence[str] | None) -> ArrayNames:
        """The orders in which a model's arrays are sent, or the order of the names.

        Raises:
            InputError: neither or both are given, `model` is no module, or the names are no different texts.
        """
        if (model is None) == (names is None):
            raise InputError(
                f"{ASKED}: the old interface sends arrays without names: give model=, the module that is trained, or "
                "names=, those of the arrays in the order in which they are sent; one of the two"
            )
        if names is not None:
            return ArrayNames({"names=": dict.fromkeys(_texts(names))})
        if not isinstance(model, torch.nn.Module):
            raise InputError(f"{ASKED}: model= is a {type(model).__name__}: give a torch.nn.Module")
        whole = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        return ArrayNames(
            {
                "the model's state_dict()": whole,
                "its parameters()": {name: tuple(value.shape) for name, value in model.named_parameters()},
                f"its state_dict() without {COUNTER}": {
                    name: shape for name, shape in whole.items() if name.rpartition(".")[2] != COUNTER
                },
            }
        )

    def fit(self, shapes: Sequence[tuple[int, ...]], whose: str) -> tuple[str, ...]:
        """The names of arrays of these shapes, which are `whose`.

        Raises:
            InputError: in no order are they as many, or of these shapes.
        """
        same = {called: order for called, order in self.orders.items() if len(order) == len(shapes)}
        if not same:
            counts = dict.fromkeys(f"{called} has {len(order)}" for called, order in self.orders.items())
            raise InputError(
                f"{ASKED}: {whose}: {len(shapes)} arrays, {', '.join(counts)}: give the model that is trained, or "
                "names= for the arrays that are sent"
            )
        wrong = ""
        for called, order in same.items():
            unlike = [
                f"array {at} is {list(shape)}, {name} in {called} is {list(expected)}"
                for at, (shape, (name, expected)) in enumerate(zip(shapes, order.items(), strict=True))
                if expected is not None and shape != expected
            ]
            if not unlike:
                return tuple(order)
            wrong = wrong or unlike[0]
        raise InputError(f"{ASKED}: {whose}: {wrong}: give the model that is trained, or names= in the order sent")


def _texts(names: Sequence[str]) -> list[str]:
    if isinstance(names, str):
        raise InputError(
            f"{ASKED}: names={names!r}: names= are those of the arrays here, a list; clients={names!r} names clients "
            "by a metric"
        )
    texts = list(names)
    for name in texts:
        if not isinstance(name, str) or not name:
            raise InputError(f"{ASKED}: names= holds {name!r}: names of arrays are texts")
    twice = [name for name in texts if texts.count(name) > 1]
    if twice or not texts:
        raise InputError(f"{ASKED}: names= {'is empty' if not texts else 'holds twice' + listed(twice[:1], ' ')}")
    return texts
