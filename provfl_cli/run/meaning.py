"""What the numbers mean that a recorded model puts out: classes, labels each on its own, or values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.labels import WHOLE, Classes
from ..errors import InputError, did_you_mean
from ..provenance.outputs import Inputs, by_argument
from ..provenance.settings import CLASS_TARGETS

ERROR = "squared error"
OUTPUT, MSE = "output", "mse"


@dataclass(frozen=True)
class Meaning:
    """How a prediction is read, and what of it is explained.

    Attributes:
        kind: `classes` that exclude each other, `labels` of which each is there or not, or `values`.
        names: of classes, labels, or of the numbers that the model puts out; of their squared error that one.
        target: `output` or `mse`; None: that of the method, which explains a class.
        number: which of `names` is explained; None: the predicted class, or that which a question names.
        note: what a reader has to know, one sentence; "": nothing.
    """

    kind: str = "classes"
    names: tuple[str, ...] = ()
    target: str | None = None
    number: int | None = None
    note: str = ""


def meaning(
    output: Tensor, labels: Tensor | None, target: str | None, names: Sequence[str], problem: Any, spec: str
) -> Meaning:
    """Decide by the shape of the output and the labels, and by what the user asks for.

    Args:
        output: of one input, `[1, …]`.
        labels: of all inputs, as they were given; None: there are none.
        target: of `--target`: a label, `output`, `output:J` or `mse`; None: none.
        names: of the classes or labels, where they are known.
        problem: what a network of transformers says that it was trained for (`config.problem_type`); None: nothing.
        spec: of `--data`, for errors.

    Raises:
        InputError: that does not decide it, or does not fit; all options are listed.
    """
    width, maps = output[0].numel(), output.dim() > 2
    if target is not None and target not in names and target.partition(":")[0] in (OUTPUT, MSE):
        return _asked(target, width)
    choices = _choices(width)
    if maps:
        raise InputError(
            f"--data {spec}: the model puts out {list(output.shape[1:])} for an input, no classes: type {choices}"
        )
    if labels is not None and labels.dim() == 2 and labels.shape[1] == 1 and not labels.is_floating_point():
        labels = labels[:, 0]
    if problem == "regression":
        return _value(target, width, choices, "the model was trained for regression")
    if labels is None and problem == "multi_label_classification":
        return _each_label(width, target, names, spec, choices)
    if labels is None:
        asked_class = target is not None and WHOLE.fullmatch(target)
        if width == 1 and len(names) != 2 and not asked_class and problem is None:
            raise InputError(
                f"--data {spec}: the model puts out one number for an input, and without labels that may be two "
                f"classes or a value: give labels 0 and 1, or type --target 1 (two classes) or {choices}"
            )
        return Meaning(names=tuple(names))
    if labels.dim() == 1 and not labels.is_floating_point():
        return Meaning(names=tuple(names))
    return _of_numbers(labels, width, target, names, spec, choices)


def _of_numbers(
    labels: Tensor, width: int, target: str | None, names: Sequence[str], spec: str, choices: str
) -> Meaning:
    """Labels that are no classes: 0 and 1 for each label, or what the model should put out."""
    flat = labels.reshape(len(labels), -1)
    switches = bool(((flat == 0) | (flat == 1)).all())
    if flat.shape[1] != width:
        raise InputError(
            f"--data {spec}: `labels` must be whole numbers, one for each of {len(labels)} inputs, or {width} numbers "
            f"for each, as many as the model puts out; they are {list(labels.shape)} of type {labels.dtype}; or type "
            f"{choices}"
        )
    if switches and width == 1:
        raise InputError(
            f"--data {spec}: labels of 0 and 1 as fractions, and one number put out: two classes or a value? give "
            f"labels as whole numbers (two classes), or type {choices}"
        )
    if not switches:
        return _value(target, width, choices, "the labels are numbers, no classes")
    single = bool((flat.sum(1) == 1).all())
    note = "each row of labels has a single 1: where they are classes that exclude each other, give whole numbers [n]"
    return _each_label(width, target, names, spec, choices, note if single and len(labels) > 1 else "")


def _each_label(
    width: int, target: str | None, names: Sequence[str], spec: str, choices: str, note: str = ""
) -> Meaning:
    """Labels that do not exclude each other: one is chosen."""
    called = tuple(names) or tuple(map(str, range(width)))
    if len(called) != width:
        raise InputError(f"--data {spec}: labels for {width} names, and {len(called)} are recorded")
    number = None if target is None else Classes(called).typed(target)
    if number is None:
        if target in CLASS_TARGETS:
            reason = f"--target {target}: labels do not exclude each other here, each is explained by its own logit"
        elif target is None:
            reason = f"--data {spec}: each of {width} labels is there or not: say which is explained"
        else:
            reason = f"--target {target}: no such label, {did_you_mean(target, called, 20)}"
        raise InputError(f"{reason}: type --target LABEL, such as --target {called[0]}, or {choices}")
    return Meaning("labels", called, OUTPUT, number, note)


def _value(target: str | None, width: int, choices: str, why: str) -> Meaning:
    """What is explained where nothing was chosen that the numbers allow."""
    if target is not None:
        raise InputError(f"--target {target}: {why}: type {choices}")
    if width > 1:
        raise InputError(f"{why}, {width} of them: say what is explained: type {choices}")
    return _asked(OUTPUT, width)


def _asked(target: str, width: int) -> Meaning:
    """`mse`, `output` of a single number, or `output:J`."""
    kind, colon, word = target.partition(":")
    if kind == MSE:
        if colon:
            raise InputError(f"--target {target}: --target {MSE} explains the error of all numbers together")
        return Meaning("values", (ERROR,), MSE, 0, "who pushes the squared error up makes the output worse")
    if not colon and width > 1:
        raise InputError(
            f"--target {target}: the model puts out {width} numbers: --target output:0 to output:{width - 1}"
        )
    if colon and not (WHOLE.fullmatch(word) and 0 <= int(word) < width):
        last = f"0 to {width - 1}" if width > 1 else "0"
        raise InputError(f"--target {target}: the model puts out {width} number{'s' * (width > 1)}: {last}")
    names = (OUTPUT,) if width == 1 else tuple(f"{OUTPUT} {number}" for number in range(width))
    return Meaning("values", names, OUTPUT, int(word) if colon else 0)


def _choices(width: int) -> str:
    first = "--target output" if width == 1 else f"--target output:J (J from 0 to {width - 1})"
    return f"{first} or --target mse (the squared error against `labels`, or against the input)"


def wanted_numbers(labels: Tensor | None, inputs: Inputs, width: int, needed: bool, spec: str) -> Tensor | None:
    """What the model should put out, `[n, numbers]`; None where nobody says so.

    Labels of that many numbers are; else, of a model that puts out as many numbers as it reads, the inputs themselves.

    Raises:
        InputError: it is needed, and there is nothing.
    """
    if labels is not None and labels[0].numel() == width:
        return labels.reshape(len(labels), -1).to(torch.float64)
    if not needed:
        return None
    read = list(by_argument(inputs).values())
    if len(read) == 1 and read[0].is_floating_point() and read[0][0].numel() == width:
        return read[0].reshape(len(read[0]), -1).to(torch.float64)
    raise InputError(
        f"--target mse: --data {spec} has no `labels` of {width} number{'s' * (width > 1)} for each input to compare "
        "with, nor inputs of that many: give them"
    )
