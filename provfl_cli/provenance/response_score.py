"""What a causal language model gives each token of a response, and the response as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, did_you_mean
from ..responses import NOT_SAID, following
from .settings import TOKEN_TARGETS

Gathered = Callable[[Tensor], None]
"""Called with what goes into the last layer at the positions that are asked for, `[n, J, width]`."""


class ResponseScore(nn.Module):
    """The sum of the targets of a response's tokens, `[n, 1]`: what a trace explains with the target `output`.

        >>> score = ResponseScore(model, "centred")  # any module from [n, 2, T] to logits [n, T, vocabulary]
        >>> trace(score, inputs, round, replace(preset("provfl"), target="output"))

    Args:
        model: from packed responses `[n, 2, T]` (`provfl_cli.responses`) to logits `[n, T, vocabulary]`, which looks
            back alone: those at a position are of the token that comes next.
        kind: of target: `logit`, `centred`, `margin` or `log_probability`.
        span: which of the response's tokens count, the first and the one behind the last, from 0; None: all of them.

    Raises:
        InputError: there is no such kind, or the span holds no token.
    """

    def __init__(self, model: nn.Module, kind: str, span: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.module = model  # rounds find the model's parameters behind this name
        self.kind = checked_kind(kind)
        if span is not None and not 0 <= span[0] < span[1]:
            raise InputError(f"span={span}: the first token and the one behind the last, from 0, such as (0, 5)")
        self.span = span

    def forward(self, inputs: Tensor) -> Tensor:
        """The sum of the targets of each response's tokens, `[n, 1]`; of one without tokens 0."""
        values, there = self.token_values(inputs)
        return (values * there).sum(1, keepdim=True)

    def token_values(self, inputs: Tensor, gathered: Gathered | None = None) -> tuple[Tensor, Tensor]:
        """The target of each token that counts, `[n, J]`, and where there is one, bool `[n, J]`.

        `J` is the most tokens of a response; of shorter ones the tokens stand in front.

        Args:
            inputs: int64 `[n, 2, T]`.
            gathered: see `Gathered`; not called where the model does not say which its last layer is.
        """
        counted = self.counted(inputs)
        most = max(1, int(counted.sum(1).max()))
        place = counted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        there = counted.gather(1, place)
        wanted = following(inputs).gather(1, place).clamp_min(0)
        # What comes behind the last token that is asked for changes nothing: it is not looked at.
        width = int(place.where(there, 0).max()) + 1
        place = place.clamp_max(width - 1)
        with _last_layer_at(self.module, place, gathered) as chosen:
            logits = self.module(inputs[:, :, :width])
        if not chosen:
            logits = logits.gather(1, place[..., None].expand(-1, -1, logits.shape[2]))
        return token_targets(self.kind, logits, wanted), there

    def counted(self, inputs: Tensor) -> Tensor:
        """At which positions a token follows whose target counts, bool `[n, T]`."""
        counted = following(inputs) != NOT_SAID
        if self.span is None:
            return counted
        number = counted.cumsum(1) - 1
        return counted & (number >= self.span[0]) & (number < self.span[1])

    def attended(self, inputs: Tensor) -> Tensor:
        """Positions that the tokens that count look at, up to the last of any, bool `[n, width]`; the first always."""
        seen = self.counted(inputs).flip(1).cumsum(1).flip(1) > 0
        seen[:, 0] = True
        return seen[:, : int(seen.sum(1).max())]


@contextmanager
def _last_layer_at(model: nn.Module, place: Tensor, gathered: Gathered | None) -> Iterator[list[bool]]:
    """Let the last layer compute logits at the positions `place` `[n, J]` alone; holds something once it has."""
    chosen: list[bool] = []

    def gather(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not args or not isinstance(args[0], Tensor) or args[0].dim() != 3 or len(args[0]) != len(place):
            return None
        chosen.append(True)
        states = args[0].gather(1, place[..., None].expand(-1, -1, args[0].shape[2]))
        if gathered is not None:
            gathered(states)
        return (states, *args[1:])

    layer = last_layer(model)
    handle = None if layer is None else layer.register_forward_pre_hook(gather)
    try:
        yield chosen
    finally:
        if handle is not None:
            handle.remove()


def last_layer(model: nn.Module) -> nn.Module | None:
    """The layer that makes logits of what a network of transformers computes; None: it does not say."""
    network: Any = getattr(model, "network", model)
    find = getattr(network, "get_output_embeddings", None)
    layer = find() if callable(find) else None
    return layer if isinstance(layer, nn.Module) else None


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
