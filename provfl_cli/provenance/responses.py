"""Responses of causal language models, token by token (design section 2, "Sequences").

The target of the token `t_n` of a response is `y_n`: its logit at the position in front of it, given all tokens before
(`centred`, `margin` and `log_probability` as for classes). Each `y_n` is one scalar with one gradient, so that a token
is an input of the trace like any other; a response, or a span of it, is the sum of its tokens.

Responses come as `[n, 2, T]` (`provfl_cli.responses`): tokens of prompt and response, and at each position the token
that follows there if the response has it, else `NOT_SAID`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..responses import NOT_SAID
from .checks import checked_settings
from .contributions import Contributions
from .response_score import ResponseScore as ResponseScore
from .response_score import checked_kind
from .settings import Provenance
from .stack import Source
from .tracing import trace_targets

if TYPE_CHECKING:
    import pandas as pd


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

    def to_frame(self) -> pd.DataFrame:
        """A row for each token and client, for pandas: `response`, `position`, `token`, then `Contributions.to_frame`.

            >>> result.to_frame().groupby(["response", "name"])["contribution"].sum()

        `prediction` and `input` of that frame are left out: the number of a token in the trace says nothing.
        """
        frame = self.tokens.to_frame().drop(columns=["input", "prediction"])
        clients = len(self.tokens.clients)
        for place, name in enumerate(("response", "position", "token")):
            frame.insert(place, name, np.repeat(getattr(self, name), clients))
        return frame


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
    response, column = (inputs[:, 1] != NOT_SAID).nonzero(as_tuple=True)
    if not len(response):
        raise InputError("inputs: no response among them has a token")
    number = torch.arange(len(response), device=inputs.device)
    token = inputs[response, 1, column]
    rows = inputs[response]  # the response again for each of its tokens, which stands alone in plane 1
    rows[:, 1] = NOT_SAID
    rows[number, 1, column] = token
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
