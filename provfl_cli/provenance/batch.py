"""One batch: record the forward pass, and contract each layer's gradient with the clients as the backward pass goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, RunError
from .by_autograd import add_alone, logits_of
from .calls import Call, Entangled, TooLarge
from .conservation import left_side
from .deterministic import BESIDE, depending, rows_to_ask
from .factors import Dense, contract
from .gradients import per_input
from .marks import mark_inputs
from .merged import summed_rows
from .neurons import activated_neurons, attended_positions, positions_of, selected_neurons
from .outputs import check_wanted
from .own_functions import own_functions
from .products import Pairing, is_factor, product_rows
from .random_state import drawn_from, random_states
from .recording import CUT, Recorder, check_unchanged
from .stack import Stack
from .sums import DRAWS, WRITES, Setup, Sums, Target
from .targets import target_value

POOL_BLOCK = 1 << 23  # numbers of all clients in one of these products
POOLED_NUMBERS = 1 << 16  # parameters up to this size are contracted together at the end of a batch


def trace_batch(
    setup: Setup, batch: Mapping[str, Tensor], targets: Sequence[Target], sample: int, limit: int | None
) -> list[Sums]:
    """Trace one batch: one forward pass, and one backward pass for each of the targets.

    Args:
        setup: what all batches share.
        batch: inputs by argument name; the name `""` is the only positional argument.
        targets: what is explained.
        sample: for so many of the first inputs, keep each layer's part.
        limit: bytes that the activations may take; None: any.

    Raises:
        TooLarge: they take more; or it cannot be told which input of the batch is where (`Entangled`).
        RunError: the model does not give logits, or conservation has no meaning for it.
    """
    size = len(next(iter(batch.values())))
    kept = {name: tensor.clone() for name, tensor in batch.items()}
    try:
        return _traced(setup, batch, kept, targets, sample, limit)
    except (TooLarge, InputError, RunError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # what the first inputs did not show: one by one, and then by autograd alone
        if size > 1:
            raise Entangled(str(error)) from error
        if not setup.recorded or setup.settings.threshold is not None:  # by autograd no neuron could be left out
            reason = " ".join(str(error).split())[:200]
            raise RunError(f"an input of the trace cannot be followed through the model: {reason}") from error
        names = (name for name, p in setup.structure.parameters.items() if p.is_floating_point())
        alone = replace(setup, alone=frozenset(names), recorded=False)
        return _traced(alone, {name: tensor.clone() for name, tensor in kept.items()}, kept, targets, sample, limit)


def _traced(
    setup: Setup,
    batch: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    targets: Sequence[Target],
    sample: int,
    limit: int | None,
) -> list[Sums]:
    """The same; `kept` is the batch as the model has not changed it."""
    size = len(next(iter(batch.values())))
    zeros = torch.zeros(size, dtype=setup.stack.wide, device=setup.stack.device)
    sums = Sums(zeros.new_zeros(size, setup.stack.rows), zeros, zeros.clone(), zeros, zeros)
    sums.attended = attended_positions(setup.structure.model, batch)
    final = len(targets) == 1
    pairing = Pairing({b: a for b, a in setup.pairs.items() if setup.alone.isdisjoint((a, b))})

    def contracted(call: Call, gradient: Tensor) -> None:
        sums.seen.update(names_of(call))
        add_use(setup, sums, call, gradient, sample)
        if final:
            call.release()

    def record(call: Call, output: Tensor) -> None:
        if setup.pairs:
            pairing.see(call)
        if call.layer not in setup.chosen:
            sums.seen.update(names_of(call))
            return
        for name in names_of(call):
            recorder.unruled.setdefault(name, CUT)
        output.register_hook(lambda g: contracted(call, g.detach()))

    def activated(call: Call, output: Tensor) -> None:
        call.masked = True
        threshold = setup.settings.threshold
        if threshold is not None and call.axis is not None and not setup.are_logits(call.layer):
            activation = call.examples(output, call.axis)
            attended = positions_of(sums.attended, activation)
            call.mask = activated_neurons(activation, threshold, setup.settings.threshold_scale, attended)
            sums.masked[call.layer] = None

    recorder = Recorder(setup.structure, size, record, activated, limit)
    before = traces_left(setup)
    if setup.recorded:
        mark_inputs(list(batch.values()))
        with recorder.watch():
            logits = logits_of(setup.structure, batch)
    else:
        logits = logits_of(setup.structure, batch)
    for kind, wanted in targets:
        check_wanted(logits, kind, wanted, setup.structure.classes)
    sums.logits, sums.unruled = logits.detach(), recorder.unruled
    if setup.pairs:
        sums.products, sums.apart = pairing.products(), pairing.apart() | set(filter(is_factor, setup.alone))
    sums.shown = recorder.shown | own_functions(logits) | left_behind(before, traces_left(setup))
    asked = rows_to_ask(kept, recorder.lost or not setup.recorded)
    if any(True for _ in depending(setup.structure, kept, sums.logits, asked)):
        sums.shown.add(BESIDE)
    results = []
    for number, (kind, wanted) in enumerate(targets, 1):
        final = number == len(targets)
        sums.wanted = _default(kind, sums.logits, kept) if wanted is None else wanted
        target = target_value(kind, logits, sums.wanted).sum()
        if target.requires_grad:
            target.backward(retain_graph=not final)
        if setup.alone:
            add_alone(setup, sums, kept, kind, sample)
        add_pool(sums, setup.stack, sample)
        results.append(sums)
        sums = sums.for_next_target()
    return results


def _default(kind: str, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """What is explained where nobody says it: the predicted class, the only number, or how far an input is missed."""
    if kind == "output":
        return torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    if kind != "mse":
        return logits.argmax(1)
    inputs = batch.get("")
    if inputs is None or inputs[0].numel() != logits.shape[1]:
        raise InputError(
            f"classes: the model puts out {logits.shape[1]} numbers for each input, which are not as many as it reads: "
            "give the numbers that it should put out"
        )
    return inputs.reshape(len(inputs), -1)


def traces_left(setup: Setup) -> tuple[dict[str, Any], int]:
    """What a forward pass that draws random numbers or writes to parameters leaves in another state."""
    versions = sum(parameter._version for parameter in setup.structure.parameters.values())
    return random_states(setup.structure, setup.stack.device), versions


def left_behind(before: tuple[dict[str, Any], int], after: tuple[dict[str, Any], int]) -> set[str]:
    changes = {DRAWS} if drawn_from(before[0], after[0]) else set()
    return changes | ({WRITES} if before[1] != after[1] else set())


def names_of(call: Call) -> set[str]:
    return {name for weight in call.weights.values() for name in weight.names}


def add_use(setup: Setup, sums: Sums, call: Call, gradient: Tensor, sample: int) -> None:
    """Equations 5 and 6 for one use: contract its per-example gradient with every row of the stack."""
    check_unchanged(call)
    if setup.unproven and setup.unproven.intersection(names := names_of(call)) and bool(gradient.any()):
        sums.shown.update(f"gradient of {name}" for name in names)
    if call.in_product:  # it counts with the B that reads it
        return
    stack, beta = setup.stack, setup.betas[call.layer]
    g = call.examples(gradient.to(stack.dtype), call.axis)
    mask = call.mask
    if setup.settings.neurons != "all":
        masked = g if mask is None else g * mask
        chosen = selected_neurons(setup.settings, call, masked, positions_of(sums.attended, g)).expand_as(g)
        mask = chosen if mask is None else mask & chosen
    if mask is not None:
        g = g * mask
    factors, output = per_input(call, g)
    followed = {k: w for k, w in call.weights.items() if not setup.alone.intersection(w.names)}
    checked = output is not None and all(w.linear for w in call.weights.values()) and len(followed) == len(call.weights)
    if not checked:
        sums.unchecked[call.layer] = None
    for argument, weight in followed.items():
        factor = factors[argument]
        if checked and weight.view is None and isinstance(factor, Dense) and _is_small(factor):
            sums.pool.append((call.layer, weight.names[0], factor.gradient.reshape(len(g), -1) * beta))
            continue
        if argument == "weight" and call.first_factor is not None:
            check_unchanged(call.first_factor)
            rows = summed_rows if stack.source.decomposition.products else product_rows
            part = rows(call, g, stack) * beta
        else:
            part = contract(factor, stack.block(weight), stack.rows, stack.numbers).to(stack.wide) * beta
        sums.rows += part
        _add_layer(sums, call.layer, part, stack, sample)
        if not checked:
            sums.right += left_side(part, stack)
    if checked and output is not None:
        same = output.stride(0) == 0 and g.dim() == output.dim()  # of one text, for each of its tokens
        flat_g, flat_a = g.flatten(1), (output[:1] if same else output).to(g.dtype).flatten(1)
        sums.right += beta * torch.linalg.vecdot(flat_g, flat_a)
        if setup.with_mass:
            sums.mass += beta * torch.linalg.vecdot(flat_g.abs(), flat_a.abs())
    if sample and call.layer not in sums.active:
        _count_neurons(sums, call, g, mask, sample)


def _is_small(factor: Dense) -> bool:
    return factor.gradient[0].numel() <= POOLED_NUMBERS


def _add_layer(sums: Sums, layer: str, part: Tensor, stack: Stack, sample: int) -> None:
    if sample:
        sums.layers[layer] = sums.layers.get(layer, 0) + part[:sample, stack.reported]


def _count_neurons(sums: Sums, call: Call, g: Tensor, mask: Tensor | None, sample: int) -> None:
    """Neurons of each input of the sample, and how many of them took part; those at padding are not counted."""
    attended = positions_of(sums.attended, g)
    if attended is None:
        neurons = torch.full((sample,), g[0].numel())
    else:
        neurons = attended[:sample].flatten(1).sum(1).cpu() * g[0, 0].numel()
    sums.neurons[call.layer] = neurons
    sums.active[call.layer] = neurons if mask is None else mask[:sample].flatten(1).sum(1).cpu()


def add_pool(sums: Sums, stack: Stack, sample: int) -> None:
    """Contract all small parameters, as many in one matrix product as memory bears."""
    chunk: list[tuple[str, str, Tensor]] = []
    numbers = 0
    for entry in sums.pool:
        chunk.append(entry)
        numbers += entry[2].shape[1]
        if numbers * stack.rows > (stack.numbers or POOL_BLOCK):
            _add_pooled(sums, stack, sample, chunk)
            chunk, numbers = [], 0
    if chunk:
        _add_pooled(sums, stack, sample, chunk)
    sums.pool.clear()


def _add_pooled(sums: Sums, stack: Stack, sample: int, pooled: list[tuple[str, str, Tensor]]) -> None:
    gradients = torch.cat([gradient for _, _, gradient in pooled], 1)
    rows = stack.together(tuple(name for _, name, _ in pooled))
    sums.rows += (gradients @ rows.T).to(stack.wide)
    start = 0
    for layer, _, gradient in pooled if sample else ():
        end = start + gradient.shape[1]
        _add_layer(sums, layer, (gradient[:sample] @ rows[:, start:end].T).to(stack.wide), stack, sample)
        start = end
