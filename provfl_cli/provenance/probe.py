"""What of a model the recorder cannot follow: the first inputs are traced along random directions and by autograd.

Everything that computes with parameters in a way that is not seen, or is seen wrongly, differs there: an
`autograd.Function` with a backward pass of its own, code that calls no torch function, inputs reordered within a batch.
Such parameters are left to `alone`, and such batches are taken apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..errors import InputError, RunError
from .by_autograd import differentiated, logits_of
from .calls import Call, TooLarge
from .checks import explain_failure
from .deterministic import BESIDE, answers, check_deterministic, check_weights_kept, failing_layer, others_change
from .directions import DIRECTIONS, Directions, along, scores, weights_of
from .factors import contract
from .gradients import per_input
from .marks import mark_inputs
from .own_functions import own_functions
from .random_state import drawn_from, random_states
from .recording import Recorder, check_unchanged
from .response_score import ResponseScore
from .stack import Stack
from .structure import Structure
from .sums import DRAWS, WRITES, Setup, Sums

MIXED = "inputs are traced one at a time: the model mixes those of a batch in a way that is not followed"
PROBED = 3  # inputs; of one alone it would not be seen that a batch is reordered
TWICE = (0, 1, 0)  # in this order: who reorders three of a batch moves the first from one of its places
ALONE = (0, 2)  # those that autograd is asked about where that has shown a difference
Asked = Mapping[int, Sequence[int]]
"""Inputs of a batch that are also asked alone, by their row, and the rows at which they stand."""
# Relative to a parameter's own gradient, and to the largest of all: by how much two ways of computing it may differ.
TOLERANCE = {torch.float64: (1e-6, 1e-9), torch.float32: (2e-3, 1e-5)}
COARSE = (2e-2, 1e-3)  # TensorFloat-32, which GPUs may use for convolutions
HALF = (1e-1, 1e-2)


@dataclass(frozen=True)
class Verdict:
    """What inputs have shown of a model.

    `wrong` are parameters that the recorder cannot follow; `recorded` says whether it can follow any, `mixed` whether
    only input by input; `shown` is what the model did with these inputs, in words that are compared with what it does
    with others; `unproven` are parameters that had no gradient, so that nothing is known of them. `alone` are the
    logits of inputs that were asked alone, by their row, while it is about the weights and inputs that are traced.
    """

    wrong: frozenset[str]
    recorded: bool
    mixed: bool
    shown: frozenset[str]
    unproven: frozenset[str]
    alone: Mapping[int, Tensor] = field(default_factory=dict, compare=False)

    def with_other(self, other: Verdict) -> Verdict:
        """Of both sets of inputs together."""
        return Verdict(
            self.wrong | other.wrong,
            self.recorded and other.recorded,
            self.mixed or other.mixed,
            self.shown | other.shown,
            self.unproven & other.unproven,
        )

    def asks_for(self, other: Verdict) -> bool:
        """Whether inputs have to be traced in the same way."""
        return (self.wrong, self.recorded, self.mixed) == (other.wrong, other.recorded, other.mixed)


# A model's code does not change from one trace to the next, and a run traces many rounds of the same model.
_VERDICTS: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Verdict]] = WeakKeyDictionary()


@dataclass
class _Seen:
    """Derivatives along each direction, by the parameters that they are of, and where they could not be computed."""

    logits: Tensor
    along: dict[tuple[str, ...], Tensor] = field(default_factory=dict)  # [rows, DIRECTIONS]
    failed: set[str] = field(default_factory=set)
    shown: set[str] = field(default_factory=set)
    narrow: bool = False  # whether some layer computes in half precision


@dataclass
class _Truth:
    """The same by autograd, some rows of the batch one at a time.

    For each parameter its derivatives at each row that is compared, and the root of the sum of squares of its
    gradients; none where it has none.
    """

    logits: dict[int, Tensor]  # [1, classes], by row
    along: dict[str, tuple[Tensor, float]]  # [rows, DIRECTIONS]

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.logits.values())).dtype


def probed(setup: Setup, inputs: Mapping[str, Tensor]) -> Verdict:
    """What the first inputs show of a model; remembered for the next trace of it.

    Args:
        setup: of the trace, as it was asked for.
        inputs: `[inputs, …]` by argument name; the first three at most are looked at: the first also alone, and where
            something is not as autograd says, two of them each alone.

    Raises:
        InputError: the model cannot compute the inputs, is not deterministic, or changes its weights.
        RunError: it gives no logits, or an input's depend on the inputs beside it.
    """
    known = _VERDICTS.setdefault(_asked(setup), {})
    key = _key(setup, inputs)
    if key in known:
        return known[key]
    first = {name: tensor[:PROBED] for name, tensor in inputs.items()}
    count = len(next(iter(first.values())))
    verdict = None
    if count == PROBED:
        verdict = _looked_at(setup, {name: tensor[list(TWICE)] for name, tensor in first.items()}, {0: (0, 2)})
    if verdict is None or verdict.wrong or verdict.mixed:
        verdict = _looked_at(setup, first, {row: (row,) for row in (ALONE if count == PROBED else range(count))})
    if not verdict.unproven:  # else it does not hold for other weights: a gradient is zero by chance
        known[key] = replace(verdict, alone={})
    return verdict


def probed_again(setup: Setup, inputs: Mapping[str, Tensor], verdict: Verdict, parts: Sequence[Sums]) -> Verdict:
    """The verdict with what each batch has shown that the inputs looked at before have not.

    Such as a layer that only some inputs are sent to, or random numbers that are not drawn each time. So what is said
    of an input does not depend on the inputs in front of it. Inputs that were asked alone must have got the same
    answer in their batch.

    Args:
        setup: of the trace, as it was asked for.
        inputs: all of them, by argument name.
        verdict: of the inputs looked at before.
        parts: what was traced of each batch, in order.

    Raises:
        InputError, RunError: as `probed`.
    """
    start, before = 0, verdict
    for sums in parts:
        stop = start + len(sums.rows)
        if not sums.shown <= verdict.shown or (start == 0 and others_change(sums.logits, before.alone)):
            batch = {name: tensor[start:stop] for name, tensor in inputs.items()}
            seen = _looked_at(setup, batch, {row: (row,) for row in range(stop - start)})
            verdict = verdict.with_other(replace(seen, shown=seen.shown | sums.shown))
        start = stop
    known, key = _VERDICTS.get(_asked(setup), {}), _key(setup, inputs)
    if verdict is not before and key in known:
        known[key] = replace(verdict, shown=verdict.shown - {BESIDE, DRAWS, WRITES})
    return verdict


def _asked(setup: Setup) -> nn.Module:
    """The model whose code is run: behind a score of responses, which is made anew for each trace, the model itself."""
    model = setup.structure.model
    return model.module if isinstance(model, ResponseScore) else model


def _key(setup: Setup, inputs: Mapping[str, Tensor]) -> tuple[Any, ...]:
    model = setup.structure.model
    read = (setup.structure.classes, tuple(setup.structure.parameters))
    if isinstance(model, ResponseScore):  # of any length, which changes nothing that a model does
        return (setup.settings.batch_size == 1, *read, ResponseScore, model.kind, len(inputs[""]) > 1)
    return (setup.settings.batch_size == 1, *read, *((n, t.shape[1:], t.dtype, len(t) > 1) for n, t in inputs.items()))


def _looked_at(setup: Setup, inputs: Mapping[str, Tensor], asked: Asked) -> Verdict:
    """What these inputs show of a model; those that are `asked` alone too are compared with autograd."""
    structure, device = setup.structure, setup.stack.device
    batch = {name: tensor.to(device) for name, tensor in inputs.items()}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # whatever the model draws, what comes after is as without
        truth = _by_autograd(setup, batch, asked)
        check_weights_kept(structure, setup.stack.source.weights())
        stack = along(setup)
        apart = setup.settings.batch_size == 1
        states = random_states(structure, device)
        seen = _attempt(lambda: (_one_by_one if apart else _by_recorder)(setup, batch, stack, asked))
        drawn = drawn_from(states, random_states(structure, device))
        together = None if seen is None or apart else seen.logits
        check_deterministic(structure, batch, truth.logits, together, drawn)
        wrong = _wrong(truth, seen, device)
        mixed = False
        shown = set(seen.shown) if seen is not None else set()
        if wrong and len(_places(asked)) > 1 and not apart:
            single = _attempt(lambda: _one_by_one(setup, batch, stack, asked))
            wrong_apart = _wrong(truth, single, device)
            if len(wrong_apart) < len(wrong) or seen is None:
                seen, wrong, mixed = single, wrong_apart, True
                shown |= single.shown if single is not None else set()
    unproven = _unproven(truth)
    shown |= {f"gradient of {name}" for name in truth.along if name not in unproven}
    alone = {row: truth.logits[row] for row in asked}
    return Verdict(frozenset(wrong), seen is not None, mixed, frozenset(shown), unproven, alone)


def _unproven(truth: _Truth) -> frozenset[str]:
    largest = max((norm for _, norm in truth.along.values()), default=0.0)
    _, least = TOLERANCE.get(truth.dtype, HALF)
    return frozenset(name for name, (_, norm) in truth.along.items() if norm <= least * largest)


def adapted(setup: Setup, verdict: Verdict) -> tuple[Setup, tuple[str, ...]]:
    """How the inputs have to be traced, and a sentence on each thing that is not done in the ordinary way."""
    notes = []
    setup = replace(setup, unproven=verdict.unproven)
    if verdict.mixed:
        setup = replace(setup, settings=replace(setup.settings, batch_size=1))
        notes.append(MIXED)
    if verdict.wrong:
        setup = replace(setup, alone=verdict.wrong, recorded=verdict.recorded)
        names = sorted(verdict.wrong)
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        masked = "" if setup.settings.threshold is None else ", and without the threshold"
        notes.append(f"computed by autograd for each input alone, which is slower{masked}: {shown}")
    return setup, tuple(notes)


def _attempt(look: Callable[[], _Seen]) -> _Seen | None:
    """What the recorder says; None where it cannot follow the model at all."""
    try:
        return look()
    except (RunError, InputError, torch.OutOfMemoryError):
        raise
    except Exception:
        return None


def _places(asked: Asked) -> list[int]:
    """The rows that are compared with autograd."""
    return [place for places in asked.values() for place in places]


def _by_autograd(setup: Setup, batch: Mapping[str, Tensor], asked: Asked) -> _Truth:
    structure, dtype = setup.structure, setup.stack.dtype
    parameters = {name: p for name, p in structure.parameters.items() if p.is_floating_point()}
    directions = Directions(structure.parameters)
    weights, compared = _weights(batch), _places(asked)
    logits, along, squares = dict[int, Tensor](), dict[str, Tensor](), dict[str, float]()
    reached = False
    for row, places in asked.items():
        with differentiated(structure, list(parameters.values())):
            answer = _answer_alone(structure, batch, row)
            logits |= dict.fromkeys(places, answer.detach())
            if not answer.requires_grad:
                continue
            reached = True
            gradients = torch.autograd.grad(scores(answer), list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                wide = (gradient.to_dense() if gradient.is_sparse else gradient).to(dtype)
                toward = directions[name].to(wide.device, wide.dtype)
                part, square = (toward * wide).reshape(DIRECTIONS, -1).sum(1).cpu().double(), float(wide.norm()) ** 2
                rows = along.setdefault(name, torch.zeros(len(compared), DIRECTIONS, dtype=torch.float64))
                for place in places:
                    rows[compared.index(place)] = weights[place] * part
                    squares[name] = squares.get(name, 0.0) + weights[place] ** 2 * square
        del gradients
    if not reached:
        unused = ", or does not use what clients share, such as adapters that are merged or switched off"
        raise InputError(
            "no gradient of the logits reaches any parameter: the model's forward runs under no_grad"
            + (unused if structure.constants else "")
        )
    return _Truth(logits, {name: (part, squares[name] ** 0.5) for name, part in along.items()})


def _answer_alone(structure: Structure, batch: Mapping[str, Tensor], row: int) -> Tensor:
    """What the model gives for one input of a batch, with its graph.

    Raises:
        RunError: it needs others beside it.
        InputError: it cannot compute the batch.
    """
    try:
        return logits_of(structure, {name: tensor[row : row + 1].clone() for name, tensor in batch.items()})
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if len(next(iter(batch.values()))) > 1 and answers(structure, batch):
            raise RunError(BESIDE) from error
        if not isinstance(error, (RunError, InputError)):
            explain_failure(structure.model, batch, error, f"{failing_layer(structure, batch)}: ")
        raise


def _by_recorder(setup: Setup, batch: Mapping[str, Tensor], stack: Stack, asked: Asked) -> _Seen:
    size, rows = len(next(iter(batch.values()))), _places(asked)
    seen, zero = _Seen(torch.empty(0)), torch.zeros(len(rows), DIRECTIONS, dtype=torch.float64)

    def contracted(call: Call, gradient: Tensor) -> None:
        check_unchanged(call)
        seen.narrow = seen.narrow or call.output.dtype.itemsize < stack.dtype.itemsize
        g = call.examples(gradient.to(stack.dtype), call.axis)
        try:
            factors, _ = per_input(call, g)
            parts = {
                w.names: contract(factors[k], stack.block(w), stack.rows, stack.numbers)
                for k, w in call.weights.items()
            }
        except (RunError, TooLarge, torch.OutOfMemoryError):
            raise
        except Exception:
            seen.failed.update(name for w in call.weights.values() for name in w.names)
            return
        for names, part in parts.items():
            seen.along[names] = seen.along.get(names, zero) + part[rows].cpu().double()

    def record(call: Call, output: Tensor) -> None:
        for w in call.weights.values():
            seen.along.setdefault(w.names, zero)
        output.register_hook(lambda gradient: contracted(call, gradient.detach()))

    recorder = Recorder(setup.structure, size, record, lambda call, output: None)
    own = {name: tensor.clone() for name, tensor in batch.items()}
    mark_inputs(list(own.values()))
    with recorder.watch():
        logits = logits_of(setup.structure, own)
    seen.logits = logits.detach()
    seen.shown = recorder.shown | own_functions(logits)
    score = scores(logits)
    if score.requires_grad:
        score.backward()
    return seen


def _one_by_one(setup: Setup, batch: Mapping[str, Tensor], stack: Stack, asked: Asked) -> _Seen:
    whole, weights, compared = _Seen(torch.empty(0)), _weights(batch), _places(asked)
    for row, places in asked.items():
        single = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        seen = _by_recorder(setup, single, stack, {0: (0,)})
        whole.failed |= seen.failed
        whole.shown |= seen.shown
        whole.narrow |= seen.narrow
        for names, value in seen.along.items():
            rows = whole.along.setdefault(names, torch.zeros(len(compared), DIRECTIONS, dtype=torch.float64))
            for place in places:
                rows[compared.index(place)] = weights[place] * value[0]
    return whole


def _weights(batch: Mapping[str, Tensor]) -> list[float]:
    """The factor of each input in the score of a batch."""
    rows = len(next(iter(batch.values())))
    return [float(weight) for weight in weights_of(rows, torch.empty(0, dtype=torch.float64))]


def _wrong(truth: _Truth, seen: _Seen | None, device: torch.device) -> set[str]:
    """Parameters whose gradient the recorder does not know, or computes wrongly."""
    if seen is None:
        return set(truth.along)
    own, all_together = _tolerance(truth.dtype, seen.narrow, device)
    largest = max((norm for _, norm in truth.along.values()), default=0.0)
    zero = torch.zeros(DIRECTIONS, dtype=torch.float64)  # at each row
    wrong = {name for name in seen.failed if name in truth.along}
    wrong |= {name for name in truth.along if not any(name in names for names in seen.along)}
    for group in _groups(seen.along):
        value = sum((part for names, part in seen.along.items() if names[0] in group), zero)
        true = [truth.along[name] for name in group if name in truth.along]
        norm = sum(norm**2 for _, norm in true) ** 0.5
        difference = (value - sum((part for part, _ in true), zero)).abs().max()
        if not float(difference) <= own * norm + all_together * largest:
            wrong |= group
    return wrong


def _groups(along: Mapping[tuple[str, ...], Tensor]) -> list[set[str]]:
    """Parameters that some call sees only together, such as the two of a weight norm."""
    groups: list[set[str]] = []
    for names in along:
        touching = [group for group in groups if group & set(names)]
        groups = [group for group in groups if group not in touching] + [set(names).union(*touching)]
    return groups


def _tolerance(dtype: torch.dtype, narrow: bool, device: torch.device) -> tuple[float, float]:
    if narrow or dtype not in TOLERANCE:
        return HALF
    return COARSE if device.type != "cpu" else TOLERANCE[dtype]
