"""The tokens of a response in one forward pass: what they have in common is computed once.

As inputs of a trace, the tokens of a response are the same text again and again, each with another target. A causal
model computes a text once for all of them. What differs are the gradients: one backward pass for each token, all at
once (`torch.autograd.grad` with a batch of gradients). The last layer sees each token at its own position alone, so
that one ordinary backward pass gives all tokens' gradients there. And since the `z` of each layer is the same for all
tokens, every client's output is computed once for all of them, where that is cheaper (`factors.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from ..responses import NOT_SAID, following, tokens
from .batch import add_pool, add_use, left_behind, names_of, traces_left
from .calls import Call
from .deterministic import BESIDE, depending, rows_to_ask
from .marks import mark_inputs
from .memory import activations
from .neurons import activated_neurons, positions_of
from .outputs import numbers_of
from .own_functions import own_functions
from .products import Pairing
from .recording import CUT, Recorder, check_unchanged
from .response_score import ResponseScore
from .rules.registry import RULES
from .sums import Setup, Sums, Target

HELD = 4  # gradients and what is computed of them that exist at the same time, for each number that a layer puts out
# Bytes of gradients at the same time on a CPU, where more of them take no less time.
ENOUGH = 64 * 2**20


class NotTogether(Exception):
    """The tokens have to be traced as inputs of their own."""


def are_tokens(setup: Setup, batch: Mapping[str, Tensor], targets: Sequence[Target]) -> bool:
    """Whether inputs are tokens of responses that can be traced so: one each, those of a response in their order."""
    model = setup.structure.model
    if not isinstance(model, ResponseScore) or model.span is not None or not setup.recorded or setup.alone:
        return False
    if [kind for kind, _ in targets] != ["output"] or set(batch) != {""} or len(batch[""]) < 2:
        return False
    said = following(batch[""]) != NOT_SAID
    return bool((said.sum(1) == 1).all()) and len(list(_texts(batch[""]))) < len(said)


def _texts(inputs: Tensor) -> Iterator[slice]:
    """The rows of each response: the same text, and one token after the other."""
    column = (following(inputs) != NOT_SAID).to(torch.uint8).argmax(1)
    new = (tokens(inputs)[1:] != tokens(inputs)[:-1]).any(1) | (column[1:] <= column[:-1])
    edges = [0, *(int(row) + 1 for row in new.nonzero()), len(inputs)]
    yield from map(slice, edges, edges[1:])


def trace_tokens(setup: Setup, batch: Mapping[str, Tensor], sample: int, limit: int | None) -> list[Sums]:
    """Trace tokens of responses, as `batch.trace_batch` traces inputs of any kind.

    Args:
        setup: what all batches share.
        batch: the tokens, for which `are_tokens` holds.
        sample: for so many of the first tokens, keep each layer's part.
        limit: bytes that the activations may take; None: any.

    Raises:
        NotTogether: of what the model does, something does not let them be traced so.
        TooLarge, RunError: as `trace_batch`.
    """
    inputs = batch[""]
    texts = list(_texts(inputs))
    one = _Pass(setup, _no_sums(setup, len(inputs)), inputs, texts, sample, limit)
    one.trace()
    sums = one.sums
    # The first token of a response asked alone: to a model that looks ahead, what comes behind makes a difference.
    asked = [texts[len(texts) // 2].start, *(rows_to_ask(batch, one.recorder.lost) if len(texts) > 1 else ())]
    if any(True for _ in depending(setup.structure, batch, sums.logits, asked)):
        sums.shown.add(BESIDE)
    return [sums]


def _no_sums(setup: Setup, count: int) -> Sums:
    zeros = torch.zeros(count, dtype=setup.stack.wide, device=setup.stack.device)
    return Sums(zeros.new_zeros(count, setup.stack.rows), zeros, zeros.clone(), zeros.clone(), zeros)


@dataclass
class _Pass:
    """Some responses: their forward pass, and the gradients of their tokens.

    Attributes:
        setup: what all batches share.
        sums: of the tokens.
        inputs: the tokens as inputs, int64 `[rows, 2, T]`.
        texts: which of them are those of one response.
        sample, limit: as of `trace_tokens`.
        calls: what was recorded in front of the last layer, with the outputs that the model went on with.
        last: the same of the last layer and behind it.
        states: what goes into the last layer, `[texts, J, width]`, `J` the most tokens of a response.
        activations: what the activation function behind a call gave.
    """

    setup: Setup
    sums: Sums
    inputs: Tensor
    texts: Sequence[slice]
    sample: int
    limit: int | None
    calls: list[tuple[Call, Tensor]] = field(default_factory=list)
    last: list[tuple[Call, Tensor]] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    activations: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        setup, device = self.setup, self.inputs.device
        self.pairing = Pairing(setup.pairs)  # nothing is left to autograd
        # Several texts share their pass where gradients have room beside them; a single one has to be computed.
        room = None if self.limit is None or len(self.texts) == 1 else self.limit // HELD
        self.recorder = Recorder(setup.structure, len(self.texts), self._record, self._activated, room)
        counts = torch.tensor([rows.stop - rows.start for rows in self.texts], device=device)
        self.text = torch.arange(len(counts), device=device).repeat_interleave(counts)  # of each token
        first = torch.tensor([rows.start for rows in self.texts], device=device)
        self.number = torch.arange(len(self.inputs), device=device) - first[self.text]  # of each token in its response
        assert isinstance(setup.structure.model, ResponseScore)
        self.model = setup.structure.model

    def trace(self) -> None:
        """Add all that there is to the sums."""
        setup, sums = self.setup, self.sums
        whole = self.inputs[[rows.start for rows in self.texts]]
        for text, rows in zip(whole, self.texts, strict=True):
            text[1] = following(self.inputs[rows]).amax(0)  # NOT_SAID is less than any token
        before = traces_left(setup)
        mark_inputs([whole])
        with self.recorder.watch():
            values, there = self.model.token_values(whole, self.states.append)
        if int(there.sum()) != len(self.inputs) or len(self.states) > 1:
            raise NotTogether
        sums.logits = numbers_of(values.detach()[self.text, self.number][:, None], len(self.inputs))
        sums.wanted = torch.zeros(len(self.inputs), dtype=torch.int64, device=self.inputs.device)
        if setup.pairs:
            sums.products, sums.apart = self.pairing.products(), self.pairing.apart()
        sums.unruled = self.recorder.unruled
        sums.shown |= self.recorder.shown | own_functions(values) | left_behind(before, traces_left(setup))
        if any(call.versions.get("output") != output._version for call, output in (*self.calls, *self.last)):
            raise NotTogether  # changed in place: its gradient would be that of what it was changed to
        if values.requires_grad:
            self._backward(values, there)

    def _record(self, call: Call, output: Tensor) -> None:
        if self.setup.pairs:
            self.pairing.see(call)
        if call.layer not in self.setup.chosen:
            self.sums.seen.update(names_of(call))
            return
        for name in names_of(call):
            self.recorder.unruled.setdefault(name, CUT)
        (self.last if self.states else self.calls).append((call, output))

    def _activated(self, call: Call, output: Tensor) -> None:
        call.masked = True
        masks = self.setup.settings.threshold is not None and not self.setup.are_logits(call.layer)
        if masks and call.axis is not None:
            self.activations[id(call)] = output
            self.sums.masked[call.layer] = None

    # -- backward ----------------------------------------------------------------------------------------------------

    def _backward(self, values: Tensor, there: Tensor) -> None:
        root, own = values, there.to(values.dtype)
        if self.states and self.states[0].requires_grad:
            # Behind these states every position is on its own: the sum's gradient there is that of its own token.
            (root,) = self.states
            outputs = [output for _, output in self.last]
            *found, own = torch.autograd.grad(
                (values * there).sum(), [*outputs, root], retain_graph=bool(self.calls), allow_unused=True
            )
            with self._part(torch.arange(len(self.inputs), device=root.device)) as sums:
                for (call, _), gradient in zip(self.last, found, strict=True):
                    if gradient is not None:
                        self._add(
                            call, self._by_token(call), self._of_tokens(call, gradient, call.axis), sums, self.sample
                        )
        elif self.last:
            raise NotTogether
        outputs = [output for _, output in self.calls]
        if own is None or not outputs:
            return
        most = own.shape[1]
        room = (self.limit or activations(self.setup.settings.memory_mb, own.device)) // HELD
        room = min(room, ENOUGH) if own.device.type == "cpu" else room
        step = max(1, room // max(1, sum(output.nbytes for output in outputs)))
        for start in range(0, most, step):
            stop = min(most, start + step)
            number = torch.arange(start, stop, device=own.device)
            gradients = own.new_zeros(len(number), *own.shape)
            gradients[number - start, :, number] = own[:, start:stop].movedim(1, 0)
            by_number = torch.autograd.grad(
                root, outputs, gradients, retain_graph=stop < most, is_grads_batched=True, allow_unused=True
            )
            rows = ((self.number >= start) & (self.number < stop)).nonzero().squeeze(1)
            with self._part(rows) as sums:
                for (call, _), gradient in zip(self.calls, by_number, strict=True):
                    if gradient is not None:
                        apart = torch.stack([call.examples(of_one, call.axis) for of_one in gradient])
                        single = len(self.texts) == 1
                        g = apart[:, 0] if single else apart[self.number[rows] - start, self.text[rows]]
                        self._add(call, self._repeated(call, self.text[rows]), g, sums, self._sampled(rows))

    @contextmanager
    def _part(self, rows: Tensor) -> Iterator[Sums]:
        """Sums of some of the tokens, which are added to those of all."""
        part = replace(_no_sums(self.setup, len(rows)), masked=self.sums.masked, seen=self.sums.seen,
                       unchecked=self.sums.unchecked, shown=self.sums.shown)  # fmt: skip
        part.attended = self.model.attended(self.inputs)[rows]
        yield part
        add_pool(part, self.setup.stack, self._sampled(rows))
        for name in ("rows", "right", "mass"):
            getattr(self.sums, name).index_add_(0, rows, getattr(part, name))
        first = rows[: self._sampled(rows)]
        for name in ("layers", "active", "neurons"):
            whole = getattr(self.sums, name)
            for layer, some in getattr(part, name).items():
                kept = whole.setdefault(layer, some.new_zeros(self.sample, *some.shape[1:]))
                kept.index_add_(0, first.to(some.device), some)

    def _sampled(self, rows: Tensor) -> int:
        """How many of these tokens, which are in order, are of the sample: the first of them."""
        return int((rows < self.sample).sum())

    def _add(self, call: Call, repeated: Call, g: Tensor, sums: Sums, sample: int) -> None:
        """Contract one use of a layer, for some of the tokens; `repeated` has them as its inputs."""
        check_unchanged(call)
        sums.seen.update(names_of(call))
        if repeated.mask is not None:
            settings = self.setup.settings
            assert settings.threshold is not None
            attended = positions_of(sums.attended, repeated.mask)
            repeated.mask = activated_neurons(repeated.mask, settings.threshold, settings.threshold_scale, attended)
        add_use(self.setup, sums, repeated, g, sample)

    def _repeated(self, call: Call, text: Tensor) -> Call:
        """A call as if it had been made for the text of each token; `mask` is what its activation function gave."""
        if call.function not in RULES:
            raise NotTogether  # it is differentiated by running it again, in the shape in which it was called

        def repeat(tensor: Tensor, axis: int | None) -> Tensor:
            examples = call.examples(tensor, axis)  # of a single text no number is copied
            return examples.expand(len(text), *examples.shape[1:]) if len(self.texts) == 1 else examples[text]

        return self._with(call, repeat, lambda first: self._repeated(first, text), len(text))

    def _by_token(self, call: Call) -> Call:
        """A call of the last layer with each token as an input of its own, which has one position."""
        return self._with(call, partial(self._of_tokens, call), self._by_token, len(self.inputs))

    def _of_tokens(self, call: Call, tensor: Tensor, axis: int | None) -> Tensor:
        """`[texts, J, …]` as `[rows, 1, …]`."""
        examples = call.examples(tensor, axis)
        if examples.dim() < 3 or examples.shape[:2] != self.states[0].shape[:2]:
            raise NotTogether
        return examples[self.text, self.number][:, None]

    def _with(
        self, call: Call, of: Callable[[Tensor, int | None], Tensor], again: Callable[[Call], Call], count: int
    ) -> Call:
        """A call with so many inputs, which `of` makes of its own."""
        activation = self.activations.get(id(call))
        return replace(
            call,
            arguments=call.arguments | {name: of(call.arguments[name], axis) for name, axis in call.axes.items()},
            output=of(call.output, call.axis),
            axes=dict.fromkeys(call.axes, 0),
            axis=0,
            batch=count,
            mask=None if activation is None else of(activation.reshape(call.output.shape), call.axis),
            first_factor=None if call.first_factor is None else again(call.first_factor),
            versions={},
        )
