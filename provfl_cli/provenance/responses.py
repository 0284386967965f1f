"""Responses of causal language models, token by token (design section 2, "Sequences").

The target of the token `t_n` of a response is `y_n`: its logit at the position in front of it, given all tokens before
(`centred`, `margin` and `log_probability` as for classes). Each `y_n` is one scalar with one gradient, so that a token
is an input of the trace like any other; a response, or a span of it, is the sum of its tokens.

Responses come as `[n, 2, T]` (`provfl_cli.responses`): tokens of prompt and response, and at each position the token
that follows there if the response has it, else `NONE`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError, did_you_mean
from .checks import checked_settings
from .contributions import Contributions
from .settings import TOKEN_TARGETS, Provenance
from .stack import Source
from .tracing import trace_targets

NONE = -100  # where nothing of the response follows; what torch's cross entropy ignores


class ResponseScore(nn.Module):
    """What a model gives a response: the sum of its tokens' targets, `[n, 1]`, for the target `output` of a trace.

        >>> score = ResponseScore(model, "centred")  # any module from [n, 2, T] to logits [n, T, vocabulary]
        >>> trace(score, inputs, round, replace(preset("provfl"), target="output"))

    Args:
        model: from `[n, 2, T]` to logits `[n, T, vocabulary]`; those at a position are of the token behind it.
        kind: of target: `logit`, `centred`, `margin` or `log_probability`.
        span: first and last but one of the response's tokens that count, from 0; None: all of them.

    Raises:
        InputError: there is no such kind, or the span holds no token.
    """

    def __init__(self, model: nn.Module, kind: str, span: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.module = model  # by this name rounds find the model's own parameters
        self.kind = checked_kind(kind)
        if span is not None and not 0 <= span[0] < span[1]:
            raise InputError(f"span={span}: first token and the one behind the last, such as (0, 5)")
        self.span = span

    def forward(self, inputs: Tensor) -> Tensor:
        """The sum of the targets of each response, `[n, 1]`."""
        following = inputs[:, 1]
        counted = following != NONE
        if self.span is not None:
            number = counted.cumsum(1) - 1
            counted = counted & (number >= self.span[0]) & (number < self.span[1])
        # What comes behind the last token that is asked for changes nothing: it is not looked at.
        width = int(counted.any(0).nonzero().max()) + 1 if bool(counted.any()) else 1
        logits = self.module(inputs[:, :, :width])
        counted, following = counted[:, :width], following[:, :width]
        values = token_targets(self.kind, logits, following.where(counted, 0))
        return (values * counted).sum(1, keepdim=True)


def checked_kind(kind: str) -> str:
    """The kind of target; InputError where there is no such."""
    if kind not in TOKEN_TARGETS:
        raise InputError(f"target={kind}: {did_you_mean(str(kind), TOKEN_TARGETS)}")
    return kind


def token_targets(kind: str, logits: Tensor, wanted: Tensor) -> Tensor:
    """`y` of each token, differentiable in the logits.

        >>> token_targets("log_probability", torch.zeros(1, 4), torch.tensor([2])).exp()
        tensor([0.2500])

    Args:
        kind: `logit`; `centred`, minus the mean of the other logits; `margin`, minus their logsumexp, which is the
            log-odds of the token; or `log_probability`.
        logits: `[…, vocabulary]`.
        wanted: int64 `[…]`, the tokens.

    Returns:
        `[…]`.
    """
    own = logits.gather(-1, wanted[..., None]).squeeze(-1)
    if kind == "logit":
        return own
    if kind == "centred":
        return own - (logits.sum(-1) - own) / (logits.shape[-1] - 1)
    if kind == "log_probability":
        return own - logits.logsumexp(-1)
    others = logits.scatter(-1, wanted[..., None], -torch.inf)
    return own - others.logsumexp(-1)


@dataclass(frozen=True)
class ResponseTrace:
    """Which client made a model say which token: what `trace_responses` gives.

    Attributes:
        tokens: `Contributions` with a row for each token of each response, in order; `outputs` `[rows, 1]` holds the
            value of its target, `residuals` its conservation error.
        response: int64 `[rows]`, of which response, by its number among the inputs.
        position: int64 `[rows]`, of the token in its response, from 0.
        token: int64 `[rows]`, the token.
        kind: of target.
    """

    tokens: Contributions
    response: np.ndarray
    position: np.ndarray
    token: np.ndarray
    kind: str

    def summed(self, span: tuple[int, int] | None = None) -> np.ndarray:
        """Contributions to whole responses, float64 `[responses, clients]`; to a span of their tokens, where given."""
        chosen = slice(None) if span is None else (self.position >= span[0]) & (self.position < span[1])
        sums = np.zeros((int(self.response.max(initial=-1)) + 1, self.tokens.values.shape[1]))
        np.add.at(sums, self.response[chosen], self.tokens.values[chosen])
        return sums


def trace_responses(
    model: nn.Module,
    inputs: Tensor,
    source: Source,
    settings: Provenance | str | None = None,
    kind: str | None = None,
    layer_sample: int = 0,
) -> ResponseTrace:
    """Contributions of every client of a round to every token of responses.

    Args:
        model: from `[n, 2, T]` to logits `[n, T, vocabulary]`, such as `provfl_cli.models.causal` makes; the round's
            global weights are loaded into it.
        inputs: int64 `[n, 2, T]`, prompts and responses, as `provfl_cli.responses.pack` makes them.
        source, settings, layer_sample: as in `trace`.
        kind: of target, `logit`, `centred`, `margin` or `log_probability`; None: the settings' own.

    Raises:
        RunError: conservation does not hold for a token.
        InputError: the inputs are no packed responses, hold none, or what `trace` refuses.
    """
    settings = checked_settings(settings)
    kind = checked_kind(settings.target if kind is None else kind)
    check_packed(inputs)
    response, column = (inputs[:, 1] != NONE).nonzero(as_tuple=True)
    if not len(response):
        raise InputError("inputs: no response among them has a token")
    rows = inputs[response].clone()
    rows[:, 1] = NONE
    number = torch.arange(len(rows), device=rows.device)
    token = inputs[response, 1, column]
    rows[number, 1, column] = token
    behind = torch.arange(rows.shape[2], device=rows.device) > column[:, None]
    rows[:, 0].masked_fill_(behind, 0)
    (traced,) = trace_targets(
        ResponseScore(model, kind),
        rows,
        source,
        replace(settings, target="output"),
        [("output", None)],
        layer_sample,
    )
    starts = torch.searchsorted(response, response)
    return ResponseTrace(traced, response.cpu().numpy(), (number - starts).cpu().numpy(), token.cpu().numpy(), kind)


def check_packed(inputs: Tensor) -> None:
    """Raise InputError unless these are packed responses."""
    if not isinstance(inputs, Tensor) or inputs.dim() != 3 or inputs.shape[1] != 2 or inputs.dtype != torch.int64:
        raise InputError(
            "inputs: give responses packed as int64 [n, 2, T], tokens and what follows each of them "
            "(provfl_cli.responses.pack)"
        )
