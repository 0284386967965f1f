"""Trace predictions to clients: one forward and backward pass of the global model serves every client (section 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..coverage import listed
from ..errors import InputError, RunError
from ..fusion.adapters import is_merged
from ..library_warnings import library_warnings_ignored
from ..processes import threads_worth
from . import rules  # noqa: F401  (registers the layer rules)
from .checks import (
    checked_inputs,
    checked_sample,
    checked_settings,
    checked_source,
    checked_targets,
    checked_wanted,
    explain_failure,
)
from .conservation import check, residuals, suspicious
from .contributions import Contributions, LayerTrace
from .deterministic import check_weights_kept
from .memory import TOO_LITTLE
from .outputs import Inputs
from .precision import CANCELS, cancels, computes_in_half, in_float32, in_type
from .probe import MIXED, adapted, probed, probed_again
from .products import product_notes
from .response_score import ResponseScore
from .settings import Provenance
from .stack import Source
from .structure import Structure
from .sums import Setup, Sums, Target
from .torch_modes import apart_from_caller
from .traceable import check_differentiable, eager_model
from .workers.batches import batches
from .workers.work import Work, open_setup

Classes = Sequence[int] | Tensor | None
"""A class for each input; None: the predicted ones."""
FORMER = "what former rounds have put into the base of adapted layers is a constant of this round"


def trace(
    model: nn.Module,
    inputs: Inputs,
    source: Source,
    settings: Provenance | str | None = None,
    classes: Classes = None,
    layer_sample: int = 0,
) -> Contributions:
    """Contributions of every client of a round to the global model's predictions.

        >>> import torch
        >>> from provfl_cli.provenance import from_state_dicts, trace
        >>> model = torch.nn.Linear(2, 2)
        >>> before = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
        >>> ann = {"weight": torch.eye(2), "bias": torch.zeros(2)}
        >>> bob = {"weight": torch.zeros(2, 2), "bias": torch.tensor([0.0, 0.5])}
        >>> round = from_state_dicts([ann, bob], [3, 1], before, names=["Ann", "Bob"])
        >>> trace(model, torch.eye(2), round).top(1)
        [('Ann',), ('Ann',)]
        >>> trace(model, torch.eye(2), round, "faithful", classes=[1, 1]).values.shape
        (2, 2)

    Args:
        model: nn.Module, the architecture; the round's global weights are loaded into it.
        inputs: Tensor `[inputs, …]`, or a dict of tensors by argument name, such as token ids and attention mask. Where
            texts are padded, `attention_mask` says so, or the model's attribute `padding`, the token.
        source: what `from_state_dicts` or `read_round` gives, a `FusedRound`; or the lineage of a round.
        settings: str, the name of a preset such as "faithful"; or `Provenance`; None: the preset "provfl".
        classes: list of int, or Tensor, the class to explain for each input; None: the predicted one. With the target
            `output` which of the numbers that the model puts out, from 0; with `mse` what it should put out, `[inputs,
            …]`, None: the input itself.
        layer_sample: int, for so many of the first inputs also each layer's part.

    Returns:
        `Contributions`: a contribution for each input and client, and what has to be known about them.

    Raises:
        RunError: conservation does not hold, or inputs are not independent of each other.
        InputError: what was given is not that, or does not fit together; `settings.layers` names no layer of the model;
            or the model cannot be traced: it is not deterministic, or is TorchScript, quantized or complex.
    """
    settings = checked_settings(settings)
    return trace_targets(model, inputs, source, settings, [(settings.target, classes)], layer_sample)[0]


@library_warnings_ignored()
def trace_targets(
    model: nn.Module,
    inputs: Inputs,
    source: Source,
    settings: Provenance | str | None,
    targets: Sequence[tuple[str, Classes]],
    layer_sample: int = 0,
) -> list[Contributions]:
    """The same as `trace` for several targets, which share the forward pass.

        >>> import torch
        >>> from provfl_cli.provenance import from_state_dicts, trace_targets
        >>> before = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
        >>> after = {"weight": torch.eye(2), "bias": torch.zeros(2)}
        >>> round = from_state_dicts({"Ann": after, "Bob": before}, [1, 1], before)
        >>> wanted = [("logit", None), ("margin", [0, 0])]
        >>> [each.top(1) for each in trace_targets(torch.nn.Linear(2, 2), torch.eye(2), round, "provfl", wanted)]
        [[('Ann',), ('Ann',)], [('Ann',), ('Bob',)]]

    Args:
        model, inputs, source, layer_sample: as in `trace`.
        settings: as in `trace`, but for their target.
        targets: list of pairs, a kind (`logit`, `centred`, `margin`; or `output`, `mse`) and what to explain, as
            `classes` of `trace` (None: the predicted classes).

    Returns:
        A list of `Contributions`, one for each target.

    Raises:
        RunError, InputError: as in `trace`.
    """
    responses = isinstance(model, ResponseScore)
    threads = threads_worth(sum(p.numel() for p in model.parameters())) if responses else nullcontext()
    with apart_from_caller(), threads:
        try:
            return _traced_targets(model, inputs, source, settings, targets, layer_sample)
        except torch.OutOfMemoryError as error:
            raise RunError(TOO_LITTLE) from error


def _traced_targets(
    model: nn.Module,
    inputs: Inputs,
    source: Source,
    settings: Provenance | str | None,
    targets: Sequence[tuple[str, Classes]],
    layer_sample: int,
) -> list[Contributions]:
    """The same, in torch's ordinary mode."""
    settings, targets = checked_settings(settings), checked_targets(targets)
    settings = replace(settings, target=targets[0][0])
    named, layer_sample = checked_inputs(inputs), checked_sample(layer_sample)
    model = eager_model(model)
    source = checked_source(model, source)
    check_differentiable(model, source.weights())
    if computes_in_half(model, source):
        model, named = in_float32(model, named)
    results = _in_one_type(model, named, source, settings, targets, layer_sample)
    if any(cancels(result.residuals, model) for result in results):
        with suppress(Exception):  # a model that computes in float32 alone keeps what it has
            wide, doubled = in_type(model, named, torch.float64)
            again = _in_one_type(wide, doubled, source, settings, targets, layer_sample)
            return [replace(result, notes=(*result.notes, CANCELS)) for result in again]
    return results


def _in_one_type(
    model: nn.Module,
    named: dict[str, Tensor],
    source: Source,
    settings: Provenance,
    targets: Sequence[tuple[str, Classes]],
    layer_sample: int,
) -> list[Contributions]:
    """The same, in the type of the model's shared parameters."""
    setup = open_setup(model, source, settings)
    count, device = len(next(iter(named.values()))), setup.stack.device
    wanted: list[Target] = [(kind, checked_wanted(kind, explained, count, device)) for kind, explained in targets]
    results = []
    with setup.structure.frozen():
        setup, sums_by_target, notes = _traced(setup, named, wanted, layer_sample)
        for target, parts in zip(wanted, zip(*sums_by_target, strict=True), strict=True):
            try:
                results.append(_checked(setup, parts, target, named, notes))
            except RunError:
                if setup.settings.batch_size == 1 or len(parts[0].rows) == 1:
                    raise
                # Where the inputs of a batch were mistaken for something else: each alone shows whether that is all.
                single = replace(setup, settings=replace(setup.settings, batch_size=1))
                again = [sums for (sums,) in batches(Work(single, named, [target], layer_sample))]
                results.append(_checked(single, again, target, named, (*notes, MIXED)))
    return results


def _traced(
    setup: Setup, inputs: Mapping[str, Tensor], targets: list[Target], layer_sample: int
) -> tuple[Setup, list[list[Sums]], tuple[str, ...]]:
    """Sums of each batch for each target, how they had to be traced, and what is to be said of it."""
    verdict = probed(setup, inputs)
    while True:
        fitting, notes = adapted(setup, verdict)
        sums_by_target = _sums(Work(fitting, inputs, targets, layer_sample))
        wider = probed_again(setup, inputs, verdict, [sums[-1] for sums in sums_by_target])
        if wider.asks_for(verdict):
            return fitting, sums_by_target, notes
        verdict = wider


def _checked(
    setup: Setup, parts: Sequence[Sums], target: Target, inputs: Mapping[str, Tensor], notes: tuple[str, ...]
) -> Contributions:
    """The result for one target; RunError where conservation fails."""
    stack = setup.stack
    residual, difference = residuals(_joined(parts, "rows"), _joined(parts, "right"), stack)
    if suspicious(residual, stack.dtype):
        again = batches(Work(replace(setup, with_mass=True), inputs, [target], 0))
        mass = _joined([sums for (sums,) in again], "mass")
        try:
            check(residual, difference, mass, stack.dtype)
        except RunError:
            check_weights_kept(setup.structure, stack.source.weights(), inputs)
            raise
    return _collect(setup, parts, residual, notes)


def _sums(work: Work) -> list[list[Sums]]:
    """Sums of each batch; where the model cannot even be asked plainly, InputError says so in place of its error."""
    try:
        return batches(work)
    except (InputError, RunError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        explain_failure(work.setup.structure.model, work.inputs, error)
        raise


def _joined(parts: Sequence[Sums], name: str) -> Tensor:
    return torch.cat([getattr(sums, name) for sums in parts])


def _collect(setup: Setup, parts: Sequence[Sums], residual: Tensor, notes: tuple[str, ...]) -> Contributions:
    stack, settings, first = setup.stack, setup.settings, parts[0]
    parameters = setup.structure.parameters
    rows = _joined(parts, "rows").cpu().double()
    shares = stack.source.decomposition.example_weights
    weighting = shares if settings.client_weighting == "fusion" else torch.ones_like(shares)
    logits, wanted, classes = _joined(parts, "logits").float(), _joined(parts, "wanted"), setup.structure.classes
    by_kind = dict(zip(stack.kinds, rows[:, stack.size :].T.numpy(), strict=False))
    if settings.of == "weights":
        kept = rows[:, stack.counted - 1] if stack.ends_with_previous else torch.zeros(len(rows), dtype=torch.float64)
        by_kind = {"previous": kept.numpy(), **by_kind}
    seen = set().union(*(sums.seen for sums in parts))
    reasons = {name: why for sums in reversed(parts) for name, why in sums.unruled.items()}
    uncovered = {n: reasons.get(n, "no call of a torch function took it") for n in parameters if n not in seen}
    total = sum(p.numel() for p in parameters.values())
    return Contributions(
        clients=tuple(stack.source.clients),
        candidates=stack.source.decomposition.candidates(parameters).numpy(),
        values=(rows[:, stack.reported] * weighting).numpy(),
        rows=by_kind,
        predictions=np.full(len(rows), -1) if wanted.dim() > 1 else wanted.cpu().numpy(),
        probabilities=(logits.softmax(1) if classes else logits[:, :0]).cpu().numpy(),
        residuals=residual.cpu().double().numpy(),
        layers=_layer_traces([sums for sums in parts if sums.layers], weighting, list(parameters)),
        masked_layers=tuple(first.masked),
        covered=1.0 - sum(parameters[n].numel() for n in uncovered) / total,
        uncovered=uncovered,
        unchecked=tuple(first.unchecked),
        buffers=tuple(setup.structure.buffers),
        not_shared=tuple(name for name in setup.structure.constants if not is_merged(name)),
        outputs=None if classes else logits.cpu().numpy(),
        names=tuple(getattr(stack.source, "names", ())),
        notes=(*_not_shared(setup.structure), *notes, *_of_products(setup, parts)),
    )


def _not_shared(structure: Structure) -> tuple[str, ...]:
    """A sentence on the parameters that the round does not hold, and on what former rounds put into them, if any."""
    constants = {name: held for name, held in structure.constants.items() if not is_merged(name)}
    if not constants:
        return ()
    fixed, shared = (sum(p.numel() for p in held.values()) for held in (constants, structure.parameters))
    notes = (
        f"{fixed / (fixed + shared):.1%} of the model's parameters are not shared by the clients"
        f"{listed(constants, ': ')}; they are constants of the model, which nobody contributed to",
    )
    return notes if len(constants) == len(structure.constants) else (*notes, FORMER)


def _of_products(setup: Setup, parts: Sequence[Sums]) -> tuple[str, ...]:
    """What is to be said where adapters were to be traced as products."""
    if setup.settings.adapters != "product":
        return ()
    done, apart = (set().union(*sets) for sets in zip(*((s.products, s.apart) for s in parts), strict=True))
    return product_notes(setup.pairs, done, apart)


def _layer_traces(sampled: list[Sums], weighting: Tensor, parameters: list[str]) -> tuple[LayerTrace, ...]:
    """Layers in the order of the model's parameters; last, where a tied weight is used again by another name."""
    if not sampled:
        return ()
    order = {name: place for place, name in enumerate(dict.fromkeys(name.rpartition(".")[0] for name in parameters))}
    layers = sampled[0].layers
    return tuple(
        LayerTrace(
            layer,
            (torch.cat([sums.layers[layer] for sums in sampled]).cpu().double() * weighting).numpy(),
            torch.cat([sums.active[layer] for sums in sampled]).numpy(),
            torch.cat([sums.neurons[layer] for sums in sampled]).numpy(),
        )
        for layer in sorted(layers, key=lambda layer: order.get(layer, len(order)))
    )
