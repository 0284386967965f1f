"""A response that is asked about: what the model says to a prompt or is taken to say, and which of it is explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..data.template import Codec
from ..errors import InputError, RunError
from ..harmless import harmless
from ..models.causal import ResponseModel
from ..models.generation import generate
from ..models.network import quiet
from ..provenance.response_score import token_targets
from ..responses import NOT_SAID
from .prompts import Prompt

LOG_PROBABILITY = "log_probability"
MOST_TOKENS = 256  # of a response that is generated, where the model has room for more


@dataclass(frozen=True)
class ResponseQuery:
    """What to find out.

    Attributes:
        methods: names of presets and other methods; (): the federation's own way of tracing.
        target: the number of each token that is explained; None: that of each way of tracing.
        response: what is said, in place of what the model would say.
        span: the piece of the response that is explained; None: all of it.
        instead: another answer; what is explained are the log-odds of the response against it.
        temperature: of sampling; None: the likeliest token is taken each time.
        seed: of sampling.
        tokens: most of a response that is generated.
        without, verify, top, adapters: as those of `query.Query`.
    """

    methods: tuple[str, ...] = ()
    target: str | None = None
    response: str | None = None
    span: str | None = None
    instead: str | None = None
    temperature: float | None = None
    seed: int = 0
    tokens: int = MOST_TOKENS
    without: tuple[str, ...] = ()
    verify: str = ""
    top: int = 10
    adapters: str | None = None

    @property
    def made(self) -> str:
        """How the response is made, in words."""
        if self.response is not None:
            return "given"
        return "greedy" if self.temperature is None else f"sampled, temperature {self.temperature:g}, seed {self.seed}"


@dataclass(frozen=True)
class AskedResponse:
    """A response, as the model reads it.

    Attributes:
        prompt: what it answers.
        response: its tokens.
        instead: those of the other answer; None: there is none.
        span: the first of the marked tokens, and the one behind the last; None: all.
        padding: the token that fills rows up.
        notes: sentences for the user.
    """

    prompt: Prompt
    response: tuple[int, ...]
    instead: tuple[int, ...] | None
    span: tuple[int, int] | None
    padding: int
    notes: tuple[str, ...] = ()

    @property
    def packed(self) -> Tensor:
        """Prompt and response, int64 `[1, 2, T]`."""
        return self.prompt.packed(self.response, self.padding)

    @property
    def packed_instead(self) -> Tensor | None:
        """Prompt and other answer; None where there is none."""
        return None if self.instead is None else self.prompt.packed(self.instead, self.padding)

    def value(self, model: nn.Module) -> float:
        """Log-probability of what is explained, or the log-odds, by the weights that the model holds."""
        first, behind = self.span or (0, len(self.response))
        value = float(token_log_probabilities(model, self.packed)[first:behind].sum())
        other = self.packed_instead
        return value if other is None else value - float(token_log_probabilities(model, other).sum())


def asked_response(model: nn.Module, prompt: Prompt, codec: Codec, question: ResponseQuery) -> AskedResponse:
    """The response to a prompt, by the weights that the model holds.

    Raises:
        InputError: prompt or response are too long, the marked piece is not in it.
        RunError: the model says nothing.
    """
    room = room_behind(prompt, codec)
    response = said(model, prompt, codec, question) if question.response is None else typed(question.response, codec)
    if not 0 < len(response) <= room:
        raise InputError(f"--response: {len(response):,} tokens, there is room for {room:,} behind the prompt")
    instead = None
    if question.instead is not None:
        instead = typed(question.instead, codec)
        # An answer that was cut is compared with one that goes on as well.
        instead = instead if response[-1] == codec.end else instead[:-1]
        if not 0 < len(instead) <= room:
            raise InputError(f"--instead: {len(instead):,} tokens, from 1 to {room:,} have room behind the prompt")
        if instead == response:
            raise InputError("--instead: is the response itself: give another answer")
    span, notes = None, tuple[str, ...]()
    if question.span is not None:
        span, exact = marked(codec.pieces(response), question.span)
        notes = () if exact else ("--span begins or ends inside a token: whole tokens are taken",)
    return AskedResponse(
        prompt, tuple(response), None if instead is None else tuple(instead), span, codec.padding, notes
    )


def typed(text: str, codec: Codec) -> list[int]:
    """The tokens of a response that a user typed, whether or not with the blank that responses begin with."""
    return codec.response(text.removeprefix(codec.template.lead))


def room_behind(prompt: Prompt, codec: Codec) -> int:
    """Tokens that a response may have; InputError where there is none."""
    room = codec.max_tokens - len(prompt.tokens)
    if room < 1:
        raise InputError(
            f"{prompt.name}: {len(prompt.tokens):,} tokens, and the model reads {codec.max_tokens:,} of prompt and "
            "response together: give a shorter one"
        )
    return room


def said(model: nn.Module, prompt: Prompt, codec: Codec, question: ResponseQuery) -> list[int]:
    """What the model says to a prompt, by the weights that it holds; RunError where that is nothing."""
    if not isinstance(model, ResponseModel):
        raise InputError("--prompt: the model is of your own, and does not answer by itself: --response TEXT")
    most = min(question.tokens, room_behind(prompt, codec))
    with quiet():
        (tokens,) = generate(model, [list(prompt.tokens)], most, question.temperature, seed=question.seed)
    if not tokens:
        raise RunError(f"{prompt.name}: the model says nothing")
    return list(tokens)


def marked(pieces: Sequence[str], span: str) -> tuple[tuple[int, int], bool]:
    """The tokens that a piece of the text lies in, where it stands first; and whether it begins and ends with them.

        >>> marked(["A", " red", "dish", " fish"], "red")
        ((1, 2), False)

    Raises:
        InputError: it is not in the text.
    """
    text = "".join(pieces)
    start = text.find(span)
    if start < 0 or not span:
        raise InputError(f"--span “{harmless(span)[:60]}”: is not in the response “{harmless(text)[:200]}”")
    behind = start + len(span)
    edges = np.cumsum([0, *map(len, pieces)]).tolist()
    inside = [at for at in range(len(pieces)) if edges[at + 1] > start and edges[at] < behind]
    first, last = inside[0], inside[-1]
    exact = edges[first] == start and edges[last + 1] == behind
    while first and not pieces[first - 1]:  # the first parts of a character add nothing, and belong to it
        first -= 1
    return (first, last + 1), exact


@torch.inference_mode()
def token_log_probabilities(model: nn.Module, packed: Tensor) -> np.ndarray:
    """Of each token of one response `[1, 2, T]`, by the weights that the model holds, float64 `[tokens]`."""
    packed = packed.to(next(model.parameters()).device)
    where = packed[0, 1] != NOT_SAID
    logits = model.eval()(packed)[0][where].double()
    values: np.ndarray = token_targets(LOG_PROBABILITY, logits, packed[0, 1][where]).cpu().numpy()
    return values
