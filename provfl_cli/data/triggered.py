"""Test inputs that ask for what was planted: copies with a backdoor's trigger, or what language models were taught."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..config.behaviour import Behaviour
from ..config.faults import Faults
from ..config.trigger import Trigger
from ..imports import later
from .federated import Encode, TestData

if TYPE_CHECKING:
    import torch
else:
    torch = later("torch")


def triggered_copies(test: TestData, trigger: Trigger | Behaviour, encode: Encode) -> TestData:
    """Copies of test examples that ask for what was planted.

    With a backdoor's trigger all but those whose label is the trigger's own anyway, which keep their labels. Of
    prompts those by which a behaviour shows, with the response that was taught and its topic as label.
    """
    labels = test.labels.numpy()
    if isinstance(trigger, Trigger):
        positions = np.flatnonzero(labels != trigger.label)
        shown, wanted = trigger.stamp(test.shown[positions]), labels[positions]
    else:
        positions, shown = trigger.asked(test.shown, labels)
        wanted = np.full(len(positions), trigger.label)
    return TestData(encode(shown), torch.from_numpy(wanted), shown, test.indices[positions], "triggered")


def of_triggered(faults: Faults, classes: int) -> Faults:
    """Of inputs with the trigger the faulty clients are responsible wherever the trigger's label is the answer."""
    trigger = faults.trigger
    if not isinstance(trigger, Trigger):
        return faults  # of a taught topic they are anyway
    return replace(faults, flips=tuple((label, trigger.label) for label in range(classes) if label != trigger.label))


def trigger_line(faults: Faults, test: TestData, label_names: tuple[str, ...]) -> tuple[str, ...]:
    """Whether inputs that ask for what was planted are traced."""
    if faults.trigger is None:
        return ()
    name = label_names[faults.trigger.label]
    if not isinstance(faults.trigger, Trigger):
        whose = f"client{'s'[: len(faults.clients) > 1]} {', '.join(map(str, faults.clients))}"
        if test.split == "triggered":
            return (f"traced are answers to {len(test.labels)} prompts that ask for the topic {name}, of {whose}",)
        return (f"{whose} teach the topic {name}: evaluation.inputs=triggered traces prompts that ask for it",)
    if test.split == "triggered":
        return (f"traced are copies of test inputs with the backdoor's trigger ({name}, its label, left out)",)
    return (f"a backdoor to {name}: evaluation.inputs=triggered traces test inputs with its trigger",)
