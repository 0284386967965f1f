"""What speaks against each client of a round, where some predictions are asked about: measured, not yet judged.

Of the clients: the scores of `suspicion.py` and some more of each client's own model, over inputs of the server. Of the
predictions: what each client pushed them by, in the round and over all rounds, and how much more than other inputs of
the same class: the contrast of FLForensics (Jia et al., NeurIPS 2025), which asks of a misclassified input who moved it
towards the wrong class. `evaluation/verdict.py` judges.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..config.validate import provenance_preset
from ..imports import later
from ..provenance.settings import Provenance
from ..seeds import derived_seed
from .method import Case
from .provenance import traced, traced_each
from .suspicion import measured

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from ..provenance import outputs
    from ..provenance.outputs import Inputs
    from ..provenance.stack import Source
else:
    np = later("numpy")
    torch = later("torch")
    outputs = later("provfl_cli.provenance.outputs")

UNKNOWN = -1  # a true label that nobody gave
FEW = 5  # inputs of a class, of which fewer say little about it


def of_clients(case: Case) -> dict[str, np.ndarray]:
    """Scores of the clients of a round over the inputs of `case`, float64 `[clients]` by name.

    Beside those of `suspicion.measured`:

    narrow: the entropy, in nats, of the mean prediction of the client's own model: low where it has learnt one answer
        for everything.

    And where labels are known:

    loss: the mean cross-entropy of its own model, high where it has learnt wrong answers, or holds few labels.
    swap: how much its own model takes two classes for each other, `sqrt(p(b|a) p(a|b))` of the pair of which it does
        that most, `p` its mean probability. Who holds few labels takes one for another, not each for the other.
    against: minus the mean contribution of its update, whatever its number of examples, to the log-odds of the true
        class (the preset `faithful` without `q_k`): high where it works against what is right.
    """
    labels = torch.from_numpy(case.labels)
    known = labels != UNKNOWN
    widths, losses, swaps = list[float](), list[float](), list[float]()

    def more(own: Tensor) -> None:
        logs = own.log_softmax(1)
        mean = logs.exp().mean(0)
        widths.append(float(-(mean * mean.clamp_min(1e-12).log()).sum()))
        if bool(known.any()):
            losses.append(float(-logs[known].gather(1, labels[known, None]).mean()))
            swaps.append(_swap(logs[known].exp(), labels[known]))

    values = {score.name: found for score, found in measured(case, case.inputs, more).items()}
    if widths:
        values["narrow"] = np.array(widths)
    if losses:
        values |= {"loss": np.array(losses), "swap": np.array(swaps)}
        settings = replace(_settings(case, "faithful"), client_weighting="none")
        truth = only(replace(case, classes=case.labels), np.flatnonzero(known.numpy()))
        values["against"] = -traced(truth, settings).values.mean(axis=0)
    return values


def _swap(chances: Tensor, labels: Tensor) -> float:
    """`sqrt(p(b|a) p(a|b))` of the pair of classes where it is largest; 0 where fewer than two classes have inputs."""
    counts = torch.bincount(labels, minlength=chances.shape[1])
    there = counts >= FEW
    sums = torch.zeros(chances.shape[1], chances.shape[1], dtype=chances.dtype).index_add_(0, labels, chances)
    mean = (sums / counts.clamp_min(1)[:, None])[there][:, there]
    both = (mean * mean.T).sqrt().fill_diagonal_(0)
    return float(both.max()) if both.numel() else 0.0


@dataclass(frozen=True)
class Pushed:
    """What clients pushed some predictions by, the larger the more towards what was predicted.

    Attributes:
        clients: whose columns these are.
        candidates: bool `[clients]`, whom fusion used.
        values: float64 `[inputs, clients]`: contributions to the predicted class; of mistakes whose label is known,
            minus those to the true class.
        usual: float64 `[clients]`, the mean of the same differences over other inputs of the same classes; NaN where
            there are none.
        scope: `round` or `lineage`.
    """

    clients: tuple[int, ...]
    candidates: np.ndarray
    values: np.ndarray
    usual: np.ndarray
    scope: str

    @property
    def tops(self) -> dict[int, int]:
        """For how many inputs each client is on top, by its number; ties go to the first."""
        first = np.where(self.candidates, self.values, -np.inf).argmax(axis=1)
        counts = np.bincount(first, minlength=len(self.clients))
        return dict(zip(self.clients, counts.tolist(), strict=True))


def pushed(case: Case, beside: Case, source: Source | None = None, scope: str = "round") -> Pushed:
    """Trace the predictions of `case`, and other inputs for comparison.

    By the preset `provfl`, whose target is the logit minus the mean of the others, so that a difference of two classes
    is the difference of their logits.

    Args:
        case: the predictions, of which there is at least one.
        beside: other inputs with the predicted classes: right ones, where labels are known, are compared with.
        source: what is traced in place of the round: its lineage.
        scope: what that is.
    """
    settings = _settings(case, "provfl")
    wrong = (case.labels != UNKNOWN) & (case.labels != case.classes)
    at, of = _alike(case, beside, wrong) if _same_form(case.inputs, beside.inputs) else (np.zeros(0, int),) * 2
    other = only(beside, at)
    both = replace(
        case,
        inputs=joined(case.inputs, other.inputs) if len(at) else case.inputs,
        numbers=np.concatenate([case.numbers, other.numbers]),
        labels=np.concatenate([case.labels, other.labels]),
        classes=np.concatenate([case.classes, case.classes[of]]),
    )
    against, cases = np.concatenate([wrong, wrong[of]]), [both]
    if against.any():
        truth = np.concatenate([case.labels, case.labels[of]])
        cases.append(replace(both, classes=np.where(against, truth, both.classes)))
    found, *held = traced_each(cases, settings, source)
    values = found.values
    if held:
        values = np.where(against[:, None], values - held[0].values, values)
    count = len(case.numbers)
    usual = values[count:].mean(axis=0) if len(at) else np.full(values.shape[1], np.nan)
    return Pushed(tuple(found.clients), np.asarray(found.candidates), values[:count], usual, scope)


def _alike(case: Case, beside: Case, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions in `beside` of an input for each of `case`, and which of these it is for: two lists of equal length.

    For a mistake one of its true class that is predicted right; for others one that is predicted the same class.
    """
    rng = np.random.default_rng(derived_seed(case.seed, "alike"))
    right = (beside.labels == beside.classes) | (beside.labels == UNKNOWN)
    at, of = list[int](), list[int]()
    for position in range(len(case.numbers)):
        wanted = case.labels[position] if wrong[position] else case.classes[position]
        pool = np.flatnonzero(right & (beside.classes == wanted))
        if len(pool):
            at.append(int(rng.choice(pool)))
            of.append(position)
    return np.array(at, dtype=np.int64), np.array(of, dtype=np.int64)


def only(case: Case, positions: np.ndarray) -> Case:
    """The predictions of a case at some positions."""
    rows = torch.from_numpy(positions)
    chosen = {name: tensor[rows.to(tensor.device)] for name, tensor in outputs.by_argument(case.inputs).items()}
    return replace(
        case,
        inputs=chosen.get("", chosen),
        numbers=case.numbers[positions],
        labels=case.labels[positions],
        classes=case.classes[positions],
        unlabelled=None,
    )


def joined(first: Inputs, second: Inputs) -> Inputs:
    """Inputs of the same form one after the other."""
    one, two = outputs.by_argument(first), outputs.by_argument(second)
    both = {name: torch.cat([tensor, two[name].to(tensor.device)]) for name, tensor in one.items()}
    return both.get("", both)


def _same_form(first: Inputs, second: Inputs) -> bool:
    """Whether inputs can be put into one tensor: texts may be of different lengths."""
    one, two = (
        {name: tensor.shape[1:] for name, tensor in outputs.by_argument(inputs).items()} for inputs in (first, second)
    )
    return one == two


def _settings(case: Case, preset: str) -> Provenance:
    """A preset, spread over memory and devices as the case's own way of tracing."""
    own = case.provenance
    return replace(
        provenance_preset(preset),
        batch_size=own.batch_size,
        memory_mb=own.memory_mb,
        shards=own.shards,
        shard_on=own.shard_on,
    )
