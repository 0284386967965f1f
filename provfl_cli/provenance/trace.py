"""Trace predictions to clients: one forward and backward pass of the global model serves every client (section 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ..config.schema import Provenance
from ..errors import InputError, RunError
from . import rules  # noqa: F401  (registers the layer rules)
from .calls import RULES, Call
from .depth import chosen_layers, layer_weights
from .factors import contract
from .recording import Recorder, check_unchanged, mark_inputs
from .rules.fallback import fallback, linear_part
from .stack import FusedRound, Stack
from .targets import target_value

# A residual above it is no rounding error: the trace fails. float64 leaves room for no more than its own.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}
# Rounding is relative to what was summed, which cancels: residuals below this share of it are rounding error.
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-14}

Inputs = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True)
class LayerTrace:
    """One layer's part, for the inputs of a sample: contributions `[sample, clients]`, active neurons `[sample]`."""

    layer: str
    contributions: np.ndarray
    active: np.ndarray
    neurons: int


@dataclass(frozen=True)
class Contributions:
    """Which client pushed which prediction how much.

    Attributes:
        clients: client numbers, the columns of `values`.
        candidates: `[clients]`, whether fusion used the client at all (a nonzero `A_k`).
        values: `T_k(b)`, float64 `[inputs, clients]`, raw (before softmax).
        rows: parts that no client of this round sent, by kind, float64 `[inputs]`.
        predictions: int64 `[inputs]`, the class that was explained.
        probabilities: float32 `[inputs, classes]`.
        residuals: float64 `[inputs]`, the relative conservation error (section 2.5).
        layers: per layer, for the first inputs of the trace.
        masked_layers: layers whose neurons were selected by the threshold.
        covered: share of the model's parameters that the trace accounts for, 0 to 1.
        uncovered: parameters it does not account for, and why.
        unchecked: layers that are not linear in their parameters, so that conservation says nothing about them.
        buffers: tensors of the model that are no parameters, and so not attributed.
    """

    clients: tuple[int, ...]
    candidates: np.ndarray
    values: np.ndarray
    rows: dict[str, np.ndarray]
    predictions: np.ndarray
    probabilities: np.ndarray
    residuals: np.ndarray
    layers: tuple[LayerTrace, ...]
    masked_layers: tuple[str, ...]
    covered: float
    uncovered: dict[str, str]
    unchecked: tuple[str, ...]
    buffers: tuple[str, ...]


@dataclass
class _Sums:
    """What one batch adds up while its backward pass runs."""

    rows: Tensor  # float64 [batch, stack rows]
    right: Tensor  # float64 [batch]
    mass: Tensor  # float64 [batch], sum of absolute values behind `right`
    layers: dict[str, Tensor] = field(default_factory=dict)
    active: dict[str, Tensor] = field(default_factory=dict)
    neurons: dict[str, int] = field(default_factory=dict)
    masked: dict[str, None] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    unchecked: dict[str, None] = field(default_factory=dict)
    unruled: dict[str, str] = field(default_factory=dict)


def trace(
    model: nn.Module,
    inputs: Inputs,
    source: FusedRound,
    settings: Provenance,
    classes: Sequence[int] | Tensor | None = None,
    layer_sample: int = 0,
) -> Contributions:
    """Contributions of every client of a round to the global model's predictions.

    Args:
        model: the architecture; the round's global weights are loaded into it.
        inputs: a tensor `[inputs, …]`, or tensors by argument name, such as token ids and attention mask.
        source: the round: global weights before and after, the clients' weights, the decomposition.
        settings: what is contracted, weighting, target, threshold, layers (a preset of `conf/provenance/`).
        classes: the class to explain for each input; None: the predicted one.
        layer_sample: for so many of the first inputs, also each layer's part.

    Raises:
        RunError: conservation does not hold, or inputs are not independent of each other.
        InputError: `settings.layers` names no layer of the model.
    """
    model.load_state_dict(dict(source.weights()))
    parameters = dict(model.named_parameters())
    any_parameter = next(iter(parameters.values()))
    dtype = torch.promote_types(any_parameter.dtype, torch.float32)
    device = any_parameter.device
    stack = Stack.open(source, settings.of, list(parameters), device, dtype)
    betas, chosen = layer_weights(model, settings.layer_decay), chosen_layers(model, settings.layers)
    count = len(inputs) if isinstance(inputs, Tensor) else len(next(iter(inputs.values())))
    wanted = None if classes is None else torch.as_tensor(classes, device=device)

    parts: list[tuple[_Sums, Tensor, Tensor]] = []
    with _frozen(model):
        for start in range(0, count, settings.batch_size):
            where = slice(start, min(count, start + settings.batch_size))
            # A copy: a model may change its input in place.
            batch = {k: v[where].to(device, copy=True) for k, v in _named(inputs).items()}
            sample = max(0, min(layer_sample - start, settings.batch_size))
            explained = None if wanted is None else wanted[where]
            parts.append(_trace_batch(model, batch, stack, settings, betas, chosen, explained, sample))
    return _collect(model, parameters, stack, settings, dtype, parts, layer_sample)


def _named(inputs: Inputs) -> dict[str, Tensor]:
    return {"": inputs} if isinstance(inputs, Tensor) else dict(inputs)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradients of parameters; both as before afterwards."""
    training = {m: m.training for m in model.modules()}
    wanted = [p.requires_grad for p in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, was in training.items():
            module.training = was
        for parameter, was in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(was)


def _logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    output = model(batch[""]) if "" in batch else model(**batch)
    return output if isinstance(output, Tensor) else output.logits


def _trace_batch(
    model: nn.Module,
    batch: dict[str, Tensor],
    stack: Stack,
    settings: Provenance,
    betas: dict[str, float],
    chosen: set[str],
    classes: Tensor | None,
    sample: int,
) -> tuple[_Sums, Tensor, Tensor]:
    """One batch: sums, explained classes, logits."""
    size = len(next(iter(batch.values())))
    rows = stack.size + len(stack.kinds) + stack.ends_with_previous
    zeros = torch.zeros(size, dtype=torch.float64, device=stack.device)
    sums = _Sums(zeros.new_zeros(size, rows), zeros.clone(), zeros.clone())

    def record(call: Call, output: Tensor) -> None:
        sums.seen.update(name for weight in call.weights.values() for name in weight.names)
        if call.layer in chosen:
            output.register_hook(lambda g: _add(sums, call, g.detach(), stack, betas[call.layer], sample))

    def activated(call: Call, output: Tensor) -> None:
        call.masked = True
        if settings.threshold is not None and call.axis is not None:
            call.mask = _active(call.examples(output, call.axis), settings.threshold, settings.threshold_scale)
            sums.masked[call.layer] = None

    recorder = Recorder(model, size, record, activated)
    mark_inputs(list(batch.values()))
    with recorder.watch():
        logits = _logits(model, batch)
    if logits.shape[0] != size or logits.dim() != 2:
        raise RunError(f"the model gave {tuple(logits.shape)} for {size} inputs: logits [inputs, classes] are needed")
    explained = logits.detach().argmax(1) if classes is None else classes
    target_value(settings.target, logits, explained).sum().backward()
    sums.unruled = recorder.unruled
    return sums, explained, logits.detach()


def _active(activation: Tensor, threshold: float, scale: str) -> Tensor:
    """Activated neurons (paper eq. 1): bool, in the shape of `activation` `[batch, …]`."""
    if scale == "minmax":
        flat = activation.flatten(1)
        low, high = flat.amin(1), flat.amax(1)
        shape = (-1,) + (1,) * (activation.dim() - 1)
        span = (high - low).clamp_min(torch.finfo(activation.dtype).tiny)
        activation = (activation - low.view(shape)) / span.view(shape)
    return activation > threshold


def _add(sums: _Sums, call: Call, gradient: Tensor, stack: Stack, beta: float, sample: int) -> None:
    """Equations 5 and 6 for one use: contract its per-example gradient with every row of the stack."""
    check_unchanged(call)
    g = call.examples(gradient.to(stack.dtype), call.axis)
    if call.mask is not None:
        g = g * call.mask
    registered = RULES.get(call.function)
    output: Tensor | None
    try:
        if registered is None:
            raise NotImplementedError
        factors = registered.rule(call, g)
        recorded = call.examples(call.output, call.axis)
        output = recorded if registered.offset is None else recorded - registered.offset(call)
    except NotImplementedError:
        factors = fallback(call, g)
        output = _linear_output(sums, call)
    part = torch.zeros_like(sums.rows)
    for argument, weight in call.weights.items():
        part += contract(factors[argument], stack.block(weight))
        if not weight.linear:
            sums.unchecked[call.layer] = None
    part *= beta
    sums.rows += part
    _add_right(sums, call, g, output, part, stack, beta)
    if sample:
        _add_layer(sums, call, g, part, stack, sample)
    call.arguments.clear()


def _linear_output(sums: _Sums, call: Call) -> Tensor | None:
    try:
        return call.examples(linear_part(call), call.axis)
    except (RuntimeError, NotImplementedError):
        sums.unchecked[call.layer] = None
        return None


def _add_right(
    sums: _Sums, call: Call, g: Tensor, output: Tensor | None, part: Tensor, stack: Stack, beta: float
) -> None:
    """`beta <mask o g, a>` from the recorded output, the right side of conservation (section 2.5)."""
    if output is None or call.layer in sums.unchecked:
        sums.right += _left(part, stack)
        return
    # einsum sums a whole input in one dot product; float64 keeps the check finer than what it checks.
    flat_g, flat_a = g.flatten(1), output.to(g.dtype).flatten(1)
    sums.right += beta * torch.linalg.vecdot(flat_g.double(), flat_a.double())
    sums.mass += beta * torch.linalg.vecdot(flat_g.abs(), flat_a.abs()).double()


def _left(rows: Tensor, stack: Stack) -> Tensor:
    """All rows as they enter the fused model: clients with `q_k`, the others as they are."""
    shares = stack.source.decomposition.example_weights.to(rows.device)
    return rows[:, : stack.size] @ shares + rows[:, stack.size :].sum(1)


def _add_layer(sums: _Sums, call: Call, g: Tensor, part: Tensor, stack: Stack, sample: int) -> None:
    mine = part[:sample, : stack.size].clone()
    sums.layers[call.layer] = sums.layers.get(call.layer, 0) + mine
    neurons = g[0].numel()
    active = torch.full((sample,), neurons) if call.mask is None else call.mask[:sample].flatten(1).sum(1).cpu()
    if call.layer not in sums.active:
        sums.active[call.layer], sums.neurons[call.layer] = active, neurons


def _collect(
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    stack: Stack,
    settings: Provenance,
    dtype: torch.dtype,
    parts: list[tuple[_Sums, Tensor, Tensor]],
    layer_sample: int,
) -> Contributions:
    shares = stack.source.decomposition.example_weights
    rows = torch.cat([sums.rows for sums, _, _ in parts]).cpu()
    right = torch.cat([sums.right for sums, _, _ in parts]).cpu()
    mass = torch.cat([sums.mass for sums, _, _ in parts]).cpu()
    difference = (_left(rows, stack) - right).abs()
    clients, unsent = rows[:, : stack.size], rows[:, stack.size : stack.size + len(stack.kinds)]
    scale = clients.abs() @ shares + unsent.abs().sum(1)
    residuals = difference / scale.clamp_min(torch.finfo(torch.float64).tiny)
    _check_conservation(residuals, difference, mass, dtype)

    weighting = shares if settings.client_weighting == "fusion" else torch.ones_like(shares)
    by_kind = dict(zip(stack.kinds, rows[:, stack.size :].T.numpy(), strict=False))
    if settings.of == "weights":
        kept = rows[:, -1] if stack.ends_with_previous else torch.zeros(len(rows), dtype=torch.float64)
        by_kind = {"previous": kept.numpy(), **by_kind}
    first = parts[0][0]
    seen = set().union(*(sums.seen for sums, _, _ in parts))
    uncovered = {n: first.unruled.get(n, "no call of a torch function took it") for n in parameters if n not in seen}
    total = sum(p.numel() for p in parameters.values())
    sampled = [sums for sums, _, _ in parts if sums.layers]
    return Contributions(
        clients=tuple(stack.source.clients),
        candidates=_candidates(stack),
        values=(clients * weighting).numpy(),
        rows=by_kind,
        predictions=torch.cat([classes for _, classes, _ in parts]).cpu().numpy(),
        probabilities=torch.cat([logits for _, _, logits in parts]).float().softmax(1).cpu().numpy(),
        residuals=residuals.numpy(),
        layers=tuple(
            LayerTrace(
                layer,
                (torch.cat([s.layers[layer] for s in sampled]).cpu() * weighting).numpy(),
                torch.cat([s.active[layer] for s in sampled]).numpy(),
                first.neurons[layer],
            )
            for layer in reversed(first.layers)
        ),
        masked_layers=tuple(first.masked),
        covered=1.0 - sum(parameters[n].numel() for n in uncovered) / total,
        uncovered=uncovered,
        unchecked=tuple(first.unchecked),
        buffers=tuple(name for name, _ in model.named_buffers()),
    )


def _candidates(stack: Stack) -> np.ndarray:
    """Clients with a nonzero `A_k` for some parameter."""
    parts = stack.source.decomposition
    used = parts.example_weights != 0
    if parts.multipliers and set(parts.multipliers) >= set(stack.previous):
        used &= torch.stack([m.flatten(1).ne(0).any(1) for m in parts.multipliers.values()]).any(0)
    return used.numpy()


def _check_conservation(residuals: Tensor, difference: Tensor, mass: Tensor, dtype: torch.dtype) -> None:
    """Raise RunError where the residual is larger than rounding can make it."""
    wrong = ~(difference <= ROUNDING[dtype] * mass) & ~(residuals <= TOLERANCE[dtype])
    if bool(wrong.any()):
        worst = int(torch.where(wrong, residuals, torch.zeros_like(residuals)).argmax())
        raise RunError(
            f"conservation fails for {int(wrong.sum())} of {len(wrong)} inputs (worst: input {worst}, residual "
            f"{float(residuals[worst]):.2e}): the clients' contributions do not add up to the global model's output; "
            "the round's decomposition and its stored weights do not belong together, or a layer rule is wrong"
        )


__all__ = ["Contributions", "InputError", "LayerTrace", "trace"]
