"""The work of a trace: what is traced, cut into batches, and how batches are handed out and come back in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...errors import InputError, RunError
from ..batch import trace_batch
from ..calls import TooLarge
from ..depth import chosen_layers, layer_weights
from ..memory import activations, block_numbers
from ..merged import summed_pairs
from ..one_pass import NotTogether, are_tokens, trace_tokens
from ..products import factor_pairs
from ..response_score import ResponseScore, last_layer
from ..settings import CLASS_TARGETS, Provenance
from ..stack import Source, Stack
from ..structure import Structure
from ..sums import Setup, Sums, Target
from .answers import packed, unpacked


class Span(NamedTuple):
    """Inputs of one batch; `bounded`: their activations may take `memory_mb` and no more."""

    start: int
    stop: int
    bounded: bool


@dataclass(frozen=True)
class Work:
    """What is traced.

    `inputs` by argument name; the name `""` is the only positional argument. For so many of the first inputs as
    `layer_sample` says each layer's part is kept.
    """

    setup: Setup
    inputs: Mapping[str, Tensor]
    targets: Sequence[Target]
    layer_sample: int

    def sums(self, span: Span) -> list[Sums]:
        """Trace one batch: its sums for each target.

        Raises:
            TooLarge: its activations take more memory than they may.
        """
        device = self.setup.stack.device
        where = slice(span.start, span.stop)
        # A copy: a model may change its input in place.
        batch = {name: tensor[where].to(device, copy=True) for name, tensor in self.inputs.items()}
        targets: list[Target] = [
            (kind, None if classes is None else classes[where].to(device)) for kind, classes in self.targets
        ]
        sample = max(0, min(self.layer_sample, span.stop) - span.start)
        limit = activations(self.setup.settings.memory_mb, device) if span.bounded else None
        if are_tokens(self.setup, batch, targets):
            try:
                return trace_tokens(self.setup, batch, sample, limit)
            except (RunError, torch.OutOfMemoryError):
                raise
            except (NotTogether, RuntimeError):  # what torch cannot differentiate for all tokens at once
                pass
        return trace_batch(self.setup, batch, targets, sample, limit)


Perform = Callable[[Sequence[Span]], Iterator[list[Sums]]]
"""Traces batches and yields their sums in order; raises TooLarge in place of the first that takes too much memory."""


def open_setup(model: nn.Module, source: Source, settings: Provenance) -> Setup:
    """Load the round's global weights into `model`, and prepare to read its clients.

    Raises:
        InputError: `settings` ask for what the model or the round has not.
    """
    structure = Structure.of(model, source.weights(), settings.target in CLASS_TARGETS)
    structure.load(source.weights())
    parameter = next(p for p in structure.parameters.values() if p.is_floating_point())
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    names, products = list(structure.parameters), settings.adapters == "product"
    summed = source.decomposition.products
    pairs = summed_pairs(source) if summed else factor_pairs(source, names, settings.of) if products else {}
    cross = bool(pairs) and not summed
    device = parameter.device
    stack = Stack.open(source, settings.of, names, device, dtype, settings.client_weighting, cross)
    stack = replace(stack, numbers=block_numbers(settings.memory_mb, device, dtype.itemsize))
    betas = layer_weights(structure.modules, settings.layer_decay)
    chosen = frozenset(chosen_layers(structure.modules, settings.layers))
    if chosen.isdisjoint(structure.own):  # all contributions would be 0, and look like an answer
        raise InputError(
            f"provenance.layers={settings.layers}: clients share no parameter of these layers: provenance.layers=all"
        )
    logits = last_layer(model.module) if isinstance(model, ResponseScore) else None
    last = next((name for name, module in structure.modules.items() if module is logits), None)
    return Setup(structure, stack, settings, betas, chosen, pairs=pairs, last_layer=last)


Answer = bytes | str | None  # packed sums; what went wrong; None: the batch is too large


def answer(work: Work, span: Span) -> Answer:
    """Trace one batch in another process."""
    try:
        return packed([replace(sums, attended=None) for sums in work.sums(span)])
    except TooLarge:
        return None
    except RunError as error:
        return str(error)


def in_order(submit: Callable[[Span], Future[Answer]], ahead: int, remedy: str) -> Perform:
    """Hand out so many batches `ahead` of the first that is awaited."""

    def perform(spans: Sequence[Span]) -> Iterator[list[Sums]]:
        waiting = deque[tuple[Span, Future[Answer]]]()
        todo = deque(spans)
        try:
            while waiting or todo:
                while todo and len(waiting) < ahead:
                    span = todo.popleft()
                    waiting.append((span, submit(span)))
                span, future = waiting.popleft()
                try:
                    answer = future.result()
                except BrokenProcessPool as error:
                    where = f"inputs {span.start} to {span.stop - 1}"
                    raise RunError(f"a process that traced {where} or others of its round died; {remedy}") from error
                if answer is None:
                    raise TooLarge
                if isinstance(answer, str):
                    raise RunError(answer)
                yield unpacked(answer)
        finally:
            for _, future in waiting:
                future.cancel()

    return perform
