"""What of a model the recorder cannot follow: the first inputs are traced along a random direction and by autograd.

Everything that computes with parameters in a way that is not seen, or is seen wrongly, differs there: an
`autograd.Function` with a backward pass of its own, code that calls no torch function, inputs reordered within a batch.
Such parameters are left to `alone`, and such batches are taken apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..errors import InputError, RunError
from ..fusion.decomposition import Decomposition
from .by_autograd import differentiated, logits_of
from .calls import Call, TooLarge
from .checks import explain_failure
from .deterministic import check_deterministic, failing_layer
from .factors import contract
from .gradients import per_input
from .marks import mark_inputs
from .recording import Recorder, check_unchanged
from .stack import Stack
from .state_dicts import RoundInMemory
from .sums import Pass

MIXED = "inputs are traced one at a time: the model mixes those of a batch in a way that is not followed"
PROBED = 3  # inputs; of one alone it would not be seen that a batch is reordered
PATTERN = 65_521  # random numbers that a direction repeats; a prime, so that rows differ
# Relative to a parameter's own gradient, and to the largest of all: by how much two ways of computing it may differ.
TOLERANCE = {torch.float64: (1e-6, 1e-9), torch.float32: (2e-3, 1e-5)}
COARSE = (2e-2, 1e-3)  # TensorFloat-32, which GPUs may use for convolutions
HALF = (1e-1, 1e-2)


class _Direction(Mapping[str, Tensor]):
    """Random numbers for each parameter, `[1, *shape]`, made when they are asked for."""

    def __init__(self, like: Mapping[str, Tensor]) -> None:
        self.like = like
        self.pattern = torch.randn(PATTERN, generator=torch.Generator().manual_seed(7))

    def __getitem__(self, name: str) -> Tensor:
        shape = self.like[name].shape
        numbers = shape.numel()
        return self.pattern.repeat(-(-numbers // PATTERN))[:numbers].view(1, *shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.like)

    def __len__(self) -> int:
        return len(self.like)


@dataclass(frozen=True)
class _Verdict:
    """Parameters that the recorder cannot follow, whether it can follow any, and whether it can only input by input."""

    wrong: frozenset[str]
    recorded: bool
    mixed: bool


# A model's code does not change from one trace to the next, and a run traces many rounds of the same model.
_VERDICTS: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], _Verdict]] = WeakKeyDictionary()


@dataclass
class _Seen:
    """Derivatives along the direction, by the parameters that they are of, and where they could not be computed."""

    logits: Tensor
    along: dict[tuple[str, ...], float] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    narrow: bool = False  # whether some layer computes in half precision


@dataclass
class _Truth:
    """The same by autograd: for each parameter its derivative and the norm of its gradient; none where it has none."""

    logits: Tensor
    along: dict[str, tuple[float, float]]


def probed(given: Pass, inputs: Mapping[str, Tensor]) -> tuple[Pass, tuple[str, ...]]:
    """How the inputs have to be traced, and a sentence on each thing that is not done in the ordinary way.

    Args:
        given: a trace as it was asked for.
        inputs: `[inputs, …]` by argument name; the first three at most are looked at.

    Raises:
        InputError: the model cannot compute the inputs, or is not deterministic.
        RunError: it gives no logits, or an input's depend on the inputs beside it.
    """
    known = _VERDICTS.setdefault(given.structure.model, {})
    key = (given.settings.batch_size == 1, *((n, t.shape[1:], t.dtype, len(t) > 1) for n, t in inputs.items()))
    if key in known:
        return _adapted(given, known[key])
    verdict, final = _looked_at(given, inputs)
    if final:
        known[key] = verdict
    return _adapted(given, verdict)


def _looked_at(given: Pass, inputs: Mapping[str, Tensor]) -> tuple[_Verdict, bool]:
    """The verdict on a model, and whether it holds for other weights too: no gradient is zero by chance."""
    structure = given.structure
    device = given.stack.device
    batch = {name: tensor[:PROBED].to(device) for name, tensor in inputs.items()}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # whatever the model draws, what comes after is as without
        truth = _by_autograd(given, batch)
        stack = _along(given)
        apart = given.settings.batch_size == 1
        seen = _attempt(lambda: (_one_by_one if apart else _by_recorder)(given, batch, stack))
        check_deterministic(structure, batch, truth.logits, None if seen is None or apart else seen.logits)
        wrong = _wrong(truth, seen, device)
        mixed = False
        if wrong and len(truth.logits) > 1 and not apart:
            single = _attempt(lambda: _one_by_one(given, batch, stack))
            wrong_apart = _wrong(truth, single, device)
            if len(wrong_apart) < len(wrong) or seen is None:
                seen, wrong, mixed = single, wrong_apart, True
    verdict = _Verdict(frozenset(wrong), seen is not None, mixed)
    return verdict, all(norm > 0 for _, norm in truth.along.values())


def _adapted(given: Pass, verdict: _Verdict) -> tuple[Pass, tuple[str, ...]]:
    notes = []
    if verdict.mixed:
        given = replace(given, settings=replace(given.settings, batch_size=1))
        notes.append(MIXED)
    if verdict.wrong:
        given = replace(given, alone=verdict.wrong, recorded=verdict.recorded)
        names = sorted(verdict.wrong)
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        masked = "" if given.settings.threshold is None else ", and without the threshold"
        notes.append(f"computed by autograd for each input alone, which is slower{masked}: {shown}")
    return given, tuple(notes)


def _attempt(look: Callable[[], _Seen]) -> _Seen | None:
    """What the recorder says; None where it cannot follow the model at all."""
    try:
        return look()
    except (RunError, InputError, torch.OutOfMemoryError):
        raise
    except Exception:
        return None


def _along(given: Pass) -> Stack:
    """A stack whose only row is a random direction."""
    weights, dtype = given.stack.source.weights(), given.stack.dtype
    direction = _Direction(given.structure.parameters)
    whole = Decomposition(torch.ones(1, dtype=torch.float64), {}, {})
    source = RoundInMemory([0], whole, weights, weights, direction)
    return Stack.open(source, "weights", list(direction), given.stack.device, dtype, "none")


def _scores(logits: Tensor) -> Tensor:
    """A scalar that depends on every logit of every input, each in another way."""
    rows, classes = logits.shape
    over_classes = torch.cos(torch.arange(classes, device=logits.device, dtype=torch.float32)).to(logits.dtype)
    return (logits * over_classes).sum(1) @ _weights(rows, logits)


def _weights(rows: int, like: Tensor) -> Tensor:
    return torch.tensor([1.0, 0.61, -0.37][:rows], device=like.device, dtype=like.dtype)


def _by_autograd(given: Pass, batch: Mapping[str, Tensor]) -> _Truth:
    structure = given.structure
    parameters = {name: p for name, p in structure.parameters.items() if p.is_floating_point()}
    with differentiated(structure, list(parameters.values())):
        try:
            logits = logits_of(structure.model, {name: tensor.clone() for name, tensor in batch.items()})
        except (RunError, InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            explain_failure(structure.model, batch, error, f"{failing_layer(structure, batch)}: ")
            raise
        if not logits.requires_grad:
            raise InputError("no gradient of the logits reaches any parameter: the model's forward runs under no_grad")
        gradients = torch.autograd.grad(_scores(logits), list(parameters.values()), allow_unused=True)
    direction = _Direction(structure.parameters)
    along = {}
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            gradient = gradient.to_dense() if gradient.is_sparse else gradient
            wide = gradient.to(given.stack.dtype)
            toward = direction[name][0].to(wide.device, wide.dtype)
            along[name] = (float((wide * toward).sum()), float(wide.norm()))
    return _Truth(logits.detach(), along)


def _by_recorder(given: Pass, batch: Mapping[str, Tensor], stack: Stack, weight: float = 1.0) -> _Seen:
    size = len(next(iter(batch.values())))
    seen = _Seen(torch.empty(0))

    def contracted(call: Call, gradient: Tensor) -> None:
        check_unchanged(call)
        seen.narrow = seen.narrow or call.output.dtype.itemsize < stack.dtype.itemsize
        g = call.examples(gradient.to(stack.dtype), call.axis)
        try:
            factors, _ = per_input(call, g)
            parts = {w.names: contract(factors[k], stack.block(w), 1) for k, w in call.weights.items()}
        except (RunError, TooLarge, torch.OutOfMemoryError):
            raise
        except Exception:
            seen.failed.update(name for w in call.weights.values() for name in w.names)
            return
        for names, part in parts.items():
            seen.along[names] = seen.along.get(names, 0.0) + weight * float(part.sum())

    def record(call: Call, output: Tensor) -> None:
        for w in call.weights.values():
            seen.along.setdefault(w.names, 0.0)
        output.register_hook(lambda gradient: contracted(call, gradient.detach()))

    recorder = Recorder(given.structure, size, record, lambda call, output: None)
    own = {name: tensor.clone() for name, tensor in batch.items()}
    mark_inputs(list(own.values()))
    with recorder.watch():
        logits = logits_of(given.structure.model, own)
    seen.logits = logits.detach()
    score = _scores(logits)
    if score.requires_grad:
        score.backward()
    return seen


def _one_by_one(given: Pass, batch: Mapping[str, Tensor], stack: Stack) -> _Seen:
    size = len(next(iter(batch.values())))
    whole = _Seen(torch.empty(0))
    weights = _weights(size, torch.empty(0, dtype=torch.float64)).tolist()
    for b, weight in enumerate(weights):
        seen = _by_recorder(given, {name: tensor[b : b + 1] for name, tensor in batch.items()}, stack, weight)
        whole.failed |= seen.failed
        whole.narrow |= seen.narrow
        for names, value in seen.along.items():
            whole.along[names] = whole.along.get(names, 0.0) + value
    return whole


def _wrong(truth: _Truth, seen: _Seen | None, device: torch.device) -> set[str]:
    """Parameters whose gradient the recorder does not know, or computes wrongly."""
    if seen is None:
        return set(truth.along)
    own, all_together = _tolerance(truth.logits, seen.narrow, device)
    largest = max((norm for _, norm in truth.along.values()), default=0.0)
    wrong = {name for name in seen.failed if name in truth.along}
    wrong |= {name for name in truth.along if not any(name in names for names in seen.along)}
    for group in _groups(seen.along):
        value = sum(part for names, part in seen.along.items() if names[0] in group)
        true = [truth.along[name] for name in group if name in truth.along]
        norm = sum(norm**2 for _, norm in true) ** 0.5
        if not abs(value - sum(part for part, _ in true)) <= own * norm + all_together * largest:
            wrong |= group
    return wrong


def _groups(along: Mapping[tuple[str, ...], float]) -> list[set[str]]:
    """Parameters that some call sees only together, such as the two of a weight norm."""
    groups: list[set[str]] = []
    for names in along:
        touching = [group for group in groups if group & set(names)]
        groups = [group for group in groups if group not in touching] + [set(names).union(*touching)]
    return groups


def _tolerance(logits: Tensor, narrow: bool, device: torch.device) -> tuple[float, float]:
    if narrow or logits.dtype not in TOLERANCE:
        return HALF
    return COARSE if device.type != "cpu" else TOLERANCE[logits.dtype]
